"""GSPO: one importance ratio for a whole completion (Zheng et al. 2025, arXiv 2507.18071, eq. 5-7).

    ratio_i = exp(mean over t of (logprobs_t - old_logprobs_t))          length-normalised
    J_t     = min(ratio_i * A, clip(ratio_i, 1 - epsilon_low, 1 + epsilon_high) * A) - beta * KL_t
    loss    = -sum_t weight_t * J_t

The reward judges the completion, so the completion is what is reweighted and clipped, all of its
tokens or none. The paper averages over sequences: grpo.aggregation = "sequence_mean".

A mean of log-ratios lies much closer to 0 than one token's: the paper clips at epsilon_low = 3e-4
and epsilon_high = 4e-4. The 0.2 of GRPO practically never clips here. See
configs/recipes/gspo.toml.
"""

from __future__ import annotations

import torch

from grpo_core.losses.output import LossOutput
from grpo_core.losses.parts import (
    KlEstimator,
    check_epsilons,
    clipped_surrogate,
    finish,
    read_terms,
)
from grpo_core.masking import masked_mean


def gspo_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    completion_mask: torch.Tensor,
    epsilon_low: float = 3e-4,
    epsilon_high: float = 4e-4,
    beta: float = 0.0,
    ref_logprobs: torch.Tensor | None = None,
    kl_estimator: KlEstimator = "k3",
) -> LossOutput:
    """Clipped surrogate with the length-normalised ratio of the whole completion.

    Args, returns, raises: as `grpo_core.losses.grpo.grpo_loss`; the clip bounds are distances from
    1 of the sequence ratio, and all tokens of a clipped completion count as clipped.
    """
    check_epsilons(epsilon_low, epsilon_high)
    terms = read_terms(logprobs, old_logprobs, advantages, weights, completion_mask)
    mean_log_ratio = masked_mean(terms.log_ratio, terms.mask, dim=-1)
    ratio = mean_log_ratio.exp().unsqueeze(1).expand_as(terms.mask)
    return finish(
        clipped_surrogate(ratio, terms.advantage, epsilon_low, epsilon_high),
        terms,
        ratio,
        clipped_low=(ratio < 1 - epsilon_low) & (terms.advantage < 0),
        clipped_high=(ratio > 1 + epsilon_high) & (terms.advantage > 0),
        beta=beta,
        ref_logprobs=ref_logprobs,
        kl_estimator=kl_estimator,
    )
