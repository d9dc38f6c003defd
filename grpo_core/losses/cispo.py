"""CISPO: the ratio is clipped as a weight, so no token ever loses its gradient.

    weight_t = stop_gradient(clip(ratio_t, 1 - epsilon_low, 1 + epsilon_high))
    J_t      = weight_t * A * logprobs_t - beta * KL_t
    loss     = -sum_t weight of the token * J_t

Source: MiniMax 2025, "MiniMax-M1", arXiv 2506.13585, section 3.1. The paper averages over tokens
(grpo.aggregation = "token_mean") and has no lower bound in its runs: grpo.epsilon_low = 1 is none.

TRL's `epsilon_high` for this loss is the cap itself and not a distance from 1, and it has no lower
bound: `epsilon_high = 5` there is `epsilon_low = 1, epsilon_high = 4` here.
"""

from __future__ import annotations

import torch

from grpo_core.losses.output import LossOutput
from grpo_core.losses.parts import KlEstimator, check_epsilons, finish, read_terms


def cispo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    completion_mask: torch.Tensor,
    epsilon_low: float = 1.0,
    epsilon_high: float = 4.0,
    beta: float = 0.0,
    ref_logprobs: torch.Tensor | None = None,
    kl_estimator: KlEstimator = "k3",
) -> LossOutput:
    """Policy gradient weighted by the clipped ratio.

    The loss's value depends on the log-probabilities themselves; read its gradient, not its trend.

    Args, returns, raises: as `grpo_core.losses.grpo.grpo_loss`; a token counts as clipped where its
    weight was, whatever the sign of its advantage (not where that is 0).
    """
    check_epsilons(epsilon_low, epsilon_high)
    terms = read_terms(logprobs, old_logprobs, advantages, weights, completion_mask)
    ratio = terms.log_ratio.detach().exp()
    weight = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    counts = terms.advantage != 0
    return finish(
        weight * terms.advantage * terms.logprobs,
        terms,
        ratio,
        clipped_low=(ratio < 1 - epsilon_low) & counts,
        clipped_high=(ratio > 1 + epsilon_high) & counts,
        beta=beta,
        ref_logprobs=ref_logprobs,
        kl_estimator=kl_estimator,
    )
