"""Dual clip: a bad token that became much likelier counts no more than c times.

    J_t  = min(ratio_t * A, clip(ratio_t, 1 - epsilon_low, 1 + epsilon_high) * A)         A >= 0
    J_t  = max(the same, c * A)                                                            A < 0
    loss = -sum_t weight_t * (J_t - beta * KL_t)

PPO's minimum bounds the ratio from above only where A > 0; where A < 0 a ratio of 1000 weighs a
thousandfold. Source: Ye et al. 2020, "Mastering Complex Control in MOBA Games with Deep
Reinforcement Learning", arXiv 1912.09729, with c = 3. TRL calls the bound `delta`.
"""

from __future__ import annotations

import torch

from grpo_core.errors import ConfigError
from grpo_core.losses.output import LossOutput
from grpo_core.losses.parts import (
    KlEstimator,
    check_epsilons,
    clipped_surrogate,
    finish,
    read_terms,
)


def dual_clip_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    *,
    completion_mask: torch.Tensor,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    beta: float = 0.0,
    ref_logprobs: torch.Tensor | None = None,
    kl_estimator: KlEstimator = "k3",
    ratio_cap: float = 3.0,
) -> LossOutput:
    """The GRPO loss, with the ratio of tokens of negative advantage bounded from above.

    Args, returns, raises: as `grpo_core.losses.grpo.grpo_loss`, and `ratio_cap`, the c above, which
    must be > 1. A token beyond it counts among `clipped_high_tokens`.
    """
    check_epsilons(epsilon_low, epsilon_high)
    if not ratio_cap > 1:
        raise ConfigError(
            f"ratio_cap must be > 1, got {ratio_cap}: at ratio 1 nothing is to be clipped. "
            "The paper uses 3."
        )
    terms = read_terms(logprobs, old_logprobs, advantages, weights, completion_mask)
    ratio = terms.log_ratio.exp()
    surrogate = clipped_surrogate(ratio, terms.advantage, epsilon_low, epsilon_high)
    bounded = torch.maximum(surrogate, ratio_cap * terms.advantage)
    far = (ratio > ratio_cap) & (terms.advantage < 0)
    return finish(
        torch.where(terms.advantage < 0, bounded, surrogate),
        terms,
        ratio,
        clipped_low=(ratio < 1 - epsilon_low) & (terms.advantage < 0),
        clipped_high=((ratio > 1 + epsilon_high) & (terms.advantage > 0)) | far,
        beta=beta,
        ref_logprobs=ref_logprobs,
        kl_estimator=kl_estimator,
    )
