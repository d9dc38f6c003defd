"""One optimiser step: from judged groups to new weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_core.config import GrpoConfig, RunConfig
from grpo_core.errors import TrainingError
from grpo_core.losses.output import LossOutput
from grpo_core.masking import masked_sum, token_weights
from grpo_core.mismatch import mismatch_weights
from grpo_core.sampling.base import derive_seed
from grpo_core.training.optimizer import learning_rate, set_learning_rate
from grpo_core.training.packing import MicroBatch, TrainingCompletion, pack
from grpo_core.training.policy import Layout, completion_logprobs, trainer_mode
from grpo_core.training.precision import MasterWeights
from grpo_core.types import Rollout, RolloutGroup


@dataclass(frozen=True, slots=True)
class Learner:
    """What an optimiser step works on.

    Attributes:
        model: the policy in compute precision. masters: its float32 weights.
        reference: the frozen starting model; None when beta is 0.
        loss: see `grpo_core.losses.grpo.grpo_loss`.
    """

    model: PreTrainedModel
    masters: MasterWeights
    optimizer: torch.optim.Optimizer
    layout: Layout
    loss: Callable[..., LossOutput]
    config: RunConfig
    reference: PreTrainedModel | None = None


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What an optimiser step reports; `metrics` are means over trained tokens."""

    loss: float
    grad_norm: float
    learning_rate: float
    metrics: dict[str, float]


def update(learner: Learner, groups: Sequence[RolloutGroup], step: int) -> UpdateResult:
    """Accumulate the gradient of all groups in micro-batches and take one optimiser step.

    Completions that cannot change the gradient (advantage 0 and no KL) are not computed; they
    still count in the loss's denominators, so the gradient does not depend on leaving them out.
    With grpo.mask_truncated a truncated completion counts as an empty one: among the completions,
    and with no tokens.
    Where none is left there is no gradient, and the weights and moments stay as they are.

    Raises:
        TrainingError: if loss or gradient is not finite. The weights are then untouched.
    """
    config = learner.config
    valid = [rollout for group in groups for rollout in group.rollouts if rollout.is_valid]
    masks = config.grpo.mask_truncated
    num_tokens = sum(
        len(rollout.completion.token_ids)
        for rollout in valid
        if not (masks and rollout.completion.is_truncated)
    )
    totals: defaultdict[str, float] = defaultdict(float)
    learner.optimizer.zero_grad(set_to_none=True)
    # Nothing here is random; should a loss of a plugin be, a resumed run repeats it.
    torch.manual_seed(derive_seed(config.seed, "update", step))
    with ExitStack() as stack:
        for model in filter(None, (learner.model, learner.reference)):
            stack.enter_context(trainer_mode(model))
        for batch in _micro_batches(learner, groups):
            weights = token_weights(
                batch.completion_mask,
                config.grpo.aggregation,
                num_completions=len(valid),
                num_tokens=num_tokens,
                max_new_tokens=config.sampling.max_new_tokens,
            )
            output, sums = _loss(learner, batch, weights)
            output.loss.backward()
            totals["loss"] += output.loss.item()
            totals["trained_tokens"] += len(batch.targets)
            for name, value in {**output.metrics, **sums}.items():
                totals[name] += value.item()
    rate = learning_rate(config.trainer, step)
    norm = _take_step(learner, totals["loss"], rate, groups)
    return UpdateResult(totals["loss"], norm, rate, _means(totals))


def _micro_batches(learner: Learner, groups: Sequence[RolloutGroup]) -> Iterator[MicroBatch]:
    settings = learner.config.grpo
    completions = [
        TrainingCompletion(
            group.prompt_token_ids,
            rollout.completion.token_ids,
            rollout.advantage,
            rollout.completion.sampler_logprobs,
        )
        for group in groups
        for rollout in group.rollouts
        if _is_trained(rollout, settings)
    ]
    max_tokens = learner.config.trainer.micro_batch_tokens
    for batch in pack(completions, max_tokens, share_prompts=learner.layout.share_prompts):
        yield batch.to(learner.model.device)


def _is_trained(rollout: Rollout, settings: GrpoConfig) -> bool:
    has_signal = _kl_weight(settings) > 0 or rollout.advantage != 0
    is_masked = settings.mask_truncated and rollout.completion.is_truncated
    return (
        rollout.is_valid and has_signal and not is_masked and len(rollout.completion.token_ids) > 0
    )


def _kl_weight(settings: GrpoConfig) -> float:
    """Weight of the KL in the loss; elsewhere it is part of the advantage already."""
    return settings.beta if settings.kl_in == "loss" else 0.0


def _loss(
    learner: Learner, batch: MicroBatch, weights: Tensor
) -> tuple[LossOutput, dict[str, Tensor]]:
    """The micro-batch's share of the loss, and sums over its tokens.

    They are `gap_sum`, of the absolute difference of sampler and trainer, and, where that is
    corrected, `mismatch_weight_sum` and `mismatch_masked_tokens`.
    """
    settings, temperature = learner.config.grpo, learner.config.sampling.temperature
    beta = _kl_weight(settings)
    reference = None
    if learner.reference is not None and beta > 0:
        with torch.no_grad():
            reference = completion_logprobs(learner.reference, batch, learner.layout, temperature)
    logprobs = completion_logprobs(learner.model, batch, learner.layout, temperature)
    mask = batch.completion_mask
    gap = (logprobs.detach() - batch.sampler_logprobs).abs()
    sums = {"gap_sum": masked_sum(gap, mask)}
    advantages = batch.advantages
    if settings.mismatch != "off":
        # Every loss is proportional to the advantage, save for its KL, which is not reweighted.
        factor = mismatch_weights(logprobs, batch.sampler_logprobs, mask, settings.mismatch)
        advantages = advantages.unsqueeze(1) * factor
        sums["mismatch_weight_sum"] = factor.sum()
        sums["mismatch_masked_tokens"] = (mask & (factor == 0)).sum()
    output = learner.loss(
        logprobs,
        # One update for each batch of samples: the policy that sampled is the policy that learns,
        # and its own log-probabilities are the exact old ones.
        logprobs.detach(),
        advantages,
        weights,
        completion_mask=mask,
        epsilon_low=settings.epsilon_low,
        epsilon_high=settings.epsilon_high,
        beta=beta,
        ref_logprobs=reference,
        kl_estimator=settings.kl_estimator,
    )
    return output, sums


def _take_step(learner: Learner, loss: float, rate: float, groups: Sequence[RolloutGroup]) -> float:
    """Clip, check, step, publish; returns the gradient norm before clipping."""
    parameters = learner.masters.parameters.values()
    norm = nn.utils.clip_grad_norm_(parameters, learner.config.trainer.max_grad_norm).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        learner.optimizer.zero_grad(set_to_none=True)
        ids = ", ".join(group.prompt.id for group in groups)
        raise TrainingError(
            f"loss {loss} or gradient norm {norm} is not finite; the weights were left as they "
            f"were. Prompts of this step: {ids}. A smaller trainer.learning_rate or "
            "model.dtype = 'float32' usually helps."
        )
    set_learning_rate(learner.optimizer, rate)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.masters.publish()
    return float(norm)


def _means(totals: Mapping[str, float]) -> dict[str, float]:
    trained = totals.get("trained_tokens", 0.0)
    clipped = totals.get("clipped_low_tokens", 0.0) + totals.get("clipped_high_tokens", 0.0)
    tokens = trained or math.nan  # a mean over nothing is no number
    means = {
        "trained_tokens": trained,
        "clipped_share": clipped / tokens,
        "sampler_logprob_gap": totals.get("gap_sum", 0.0) / tokens,
    }
    if "kl_sum" in totals:
        means["kl"] = totals["kl_sum"] / tokens
    if "mismatch_weight_sum" in totals:
        means["mismatch_weight"] = totals["mismatch_weight_sum"] / tokens
        means["mismatch_masked_share"] = totals["mismatch_masked_tokens"] / tokens
    return means
