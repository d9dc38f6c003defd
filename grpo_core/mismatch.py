"""Importance weights for tokens that a sampler drew with other probabilities than the trainer's.

A sampling engine with its own kernels, precision or quantisation is a slightly other policy q than
the trainer's pi. With d_t = log pi(token) - log q(token), the policy gradient is weighted by

    token:     w_t = exp(d_t)                        each token by its own ratio
    sequence:  w_i = exp(mean over t of d_t)         the length-normalised ratio of the completion

    truncate:  min(w, cap)                           biased, but no token is lost
    mask:      w where 1 / cap <= w <= cap, else 0   what is too far off teaches nothing

Sources: token_truncate is Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You
Off-Policy RL Training" (TIS); token_mask, with bounds on both sides, is IcePop (Ling team 2025,
"Every Step Evolves", arXiv 2510.18855); the sequence's ratio is that of GSPO (arXiv 2507.18071).
TRL's sequence modes take the sum in place of the mean, so that long completions leave any fixed
range; they are not reproduced.

Under top_p or top_k both pi and q are the cut and rescaled distributions; see
`grpo_core.truncation`.

Shape letters: B completions, T tokens of a completion.
"""

from __future__ import annotations

from typing import Literal

import torch

from grpo_core.errors import ConfigError, unknown_name
from grpo_core.masking import as_mask, masked_mean, zero_masked

Mismatch = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

MISMATCHES: tuple[Mismatch, ...] = (
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
)
CAP = 2.0


def mismatch_weights(
    logprobs: torch.Tensor,
    sampler_logprobs: torch.Tensor,
    completion_mask: torch.Tensor,
    how: Mismatch,
    *,
    cap: float = CAP,
) -> torch.Tensor:
    """The weight of each token's policy gradient.

    Args:
        logprobs: [B, T] of the trainer's policy, nats; no gradient flows into it.
        sampler_logprobs: [B, T] of the sampler, nats.
        completion_mask: [B, T] 1 on trained tokens; elsewhere both may hold anything.
        how: see the table above.
        cap: the bound, > 1.

    Returns:
        [B, T] weights in [0, cap], 0 where masked; the same for all tokens of a completion in the
        sequence modes.

    Raises:
        ConfigError: if `how` is unknown or `cap` is not > 1. ShapeError: if the shapes differ.
    """
    if how not in MISMATCHES:
        raise ConfigError(unknown_name("mismatch correction", str(how), MISMATCHES))
    if not cap > 1:
        raise ConfigError(f"cap must be > 1, got {cap}: a weight of 1 is to be kept. Usually 2.")
    mask = as_mask(completion_mask, "completion_mask")
    gap = zero_masked(logprobs.detach(), mask) - zero_masked(sampler_logprobs.detach(), mask)
    level, _, what = how.partition("_")
    if level == "sequence":
        gap = masked_mean(gap, mask, dim=-1).unsqueeze(1).expand_as(mask)
    weights = gap.exp()
    if what == "truncate":
        return zero_masked(weights.clamp(max=cap), mask)
    return zero_masked(weights, mask & (weights >= 1 / cap) & (weights <= cap))
