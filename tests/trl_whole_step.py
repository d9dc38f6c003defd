"""A whole update as TRL makes it: its `_prepare_inputs` and `_compute_loss`, one tiny model.

Beside `whole_step.our_step`, from the same samples. The batch is padded as TRL pads it, and the
model computes it in the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.types import RolloutGroup
from strategies import Batch
from trl_oracle import (
    SETTINGS,
    Setting,
    stand_in,
    trl_module,
    trl_sampler_ratio,
    trl_truncation_mask,
)
from whole_step import (
    EOS,
    RATE,
    Options,
    Outcome,
    Padded,
    make_policy,
    moves,
    our_step,
    plain_scores,
    weights,
)


class WholeStep:
    """One of TRL's settings and options, in our names, through both."""

    def __init__(self, name: str, **options: Any) -> None:
        self.setting: Setting = SETTINGS[name]
        self.options = Options(
            loss=self.setting.loss,
            loss_settings=self.setting.ours,
            aggregation=self.setting.aggregation,
            **options,
        )

    def ours(self, groups: Sequence[RolloutGroup]) -> Outcome:
        """Through `update`."""
        return our_step(groups, self.options)

    def theirs(self, groups: Sequence[RolloutGroup]) -> Outcome:
        """Through TRL."""
        return trl_step(groups, self.setting, self.options)


def trl_step(groups: Sequence[RolloutGroup], setting: Setting, options: Options) -> Outcome:
    """Through TRL's `_prepare_inputs` and `_compute_loss`, with plain descent."""
    model, padded, theirs = make_policy(), Padded(groups), trl_module().GRPOTrainer

    def score(*arguments: Any, **_: Any) -> tuple[Tensor, Tensor, None]:
        return *plain_scores(*arguments), None

    trainer = stand_in(
        setting,
        score,
        beta=options.beta,
        use_vllm=options.mismatch != "off",
        entropy_coef=options.entropy_bonus,
        _entropy_bonus_enabled=options.entropy_bonus > 0,
        num_iterations=options.num_iterations,
        _generate_and_score_completions=lambda _: _samples(model, padded, options),
        _buffered_inputs=None,
    )
    prepare = theirs._prepare_inputs.__wrapped__  # without its stopwatch
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    start, losses = weights(model), []
    for step in range(options.num_iterations):
        trainer._step = step
        loss = theirs._compute_loss(trainer, model, prepare(trainer, None))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return Outcome(sum(losses) / len(losses), moves(start, model))


@torch.no_grad()
def _samples(model: PreTrainedModel, padded: Padded, options: Options) -> dict[str, Any]:
    """What TRL's `_generate_and_score_completions` returns, with the first policy as the old one.

    It leaves the old log-probabilities out where the first policy is the current one; without a
    correction of the sampler, that is for a single iteration.
    """
    mask, corrected = padded.mask, options.mismatch != "off"
    old, _ = plain_scores(model, *padded.sequences, padded.width)
    ref, _ = plain_scores(make_policy(seed=1), *padded.sequences, padded.width)
    ratio = None
    if options.mask_truncated:
        mask = trl_truncation_mask(padded.completions, mask, EOS)
    if corrected:
        batch = Batch(old, old, ref, padded.advantages, mask.bool())
        ratio = trl_sampler_ratio(batch, padded.sampler, options.mismatch, options.cap)
    return {
        "prompt_ids": padded.prompt_ids,
        "prompt_mask": padded.prompt_mask,
        "completion_ids": padded.completion_ids,
        "completion_mask": mask,
        "advantages": padded.advantages,
        "old_per_token_logps": old if corrected or options.num_iterations > 1 else None,
        "ref_per_token_logps": ref,
        "importance_sampling_ratio": ratio,
        "num_items_in_batch": mask.sum(),
    }
