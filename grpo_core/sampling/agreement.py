"""Whether a sampler with weights of its own computes the same model as the one it was given.

Both score the same few tokens. `grpo_core.training.canary` does this after every hand-over of
weights, with the trainer's own code; `check_agreement` is for a sampler whose weights stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.config import SamplingConfig
from grpo_core.errors import SamplingError
from grpo_core.protocols import ProbedSampler, Sampler
from grpo_core.types import Prompt

_PROMPTS = 4
_TOKENS = 64  # of each prompt, the last ones

# Nats. Two right implementations in bfloat16 differ by 0.06 to 0.13 on average (SmolLM2 on CPU,
# over a run of 35 steps; the probe has unlikely tokens, whose logits are rounded most), in float32
# by 0.00001. A tied head left behind made 0.4 to 0.8.
_LIMITS = {torch.float32: 0.02}
_LIMIT = 0.3


def probe_sequences(sampler: Sampler, prompts: Sequence[Prompt]) -> list[Sequence[int]]:
    """The ends of the first prompts; none for a sampler that has no weights of its own."""
    if not isinstance(sampler, ProbedSampler):
        return []
    ends = [sampler.encode(prompt)[-_TOKENS:] for prompt in prompts[:_PROMPTS]]
    return [end for end in ends if len(end) > 1]


def gap_limit(dtype: torch.dtype, settings: SamplingConfig) -> float:
    """Nats by which both may differ on average: sampling.canary_limit, or what suits the dtype."""
    return settings.canary_limit or _LIMITS.get(dtype, _LIMIT)


def describe_gap(model: Tensor, sampler: Tensor, limit: float) -> str:
    """The sentences for two sides that differ by more than `limit`.

    Args:
        model: [N] log-probabilities by the model itself.
        sampler: [N] those of the sampler.
        limit: in nats, on average.
    """
    gaps = (sampler - model).abs()
    return (
        f"sampler and trainer disagree: on a fixed probe of {len(gaps)} tokens their "
        f"log-probabilities differ by {gaps.mean().item():.3g} nats on average and "
        f"{gaps.max().item():.3g} at most, where {limit:.3g} on average are allowed "
        "(sampling.canary_limit). The sampler's weights are stale or wrong, or it computes another "
        "model; its completions are not the policy's. Set sampling.engine = 'hf', which samples "
        "from the trainer's own weights; a run under way goes on as a new one, with model.path set "
        "to its last checkpoint."
    )


def check_agreement(
    model: PreTrainedModel, sampler: Sampler, prompts: Sequence[Prompt], settings: SamplingConfig
) -> None:
    """Compare a sampler with the model it was made from, before anything is drawn.

    Raises:
        SamplingError: if they differ by more than rounding.
    """
    probe = probe_sequences(sampler, prompts)
    if not probe:
        return
    assert isinstance(sampler, ProbedSampler)
    rows = sampler.probe_logprobs(probe)
    theirs = torch.tensor([value for row in rows for value in row], dtype=torch.float64)
    ours = _logprobs(model, probe)
    limit = gap_limit(model.dtype, settings)
    if not (theirs - ours).abs().mean() <= limit:  # NaN is not, either
        raise SamplingError(describe_gap(ours, theirs, limit))


@torch.no_grad()
def _logprobs(model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Log-probability of every token but each first, [N] float64."""
    rows = []
    for sequence in sequences:
        ids = torch.tensor([list(sequence)], device=model.device)
        logprobs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
        rows.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).cpu())
    return torch.cat(rows)
