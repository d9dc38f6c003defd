"""The GRPO loss: clipped surrogate with a KL penalty (Shao et al. 2024, arXiv 2402.03300, eq. 3).

    ratio_t = exp(logprobs_t - old_logprobs_t)
    J_t     = min(ratio_t * A, clip(ratio_t, 1 - epsilon_low, 1 + epsilon_high) * A) - beta * KL_t
    loss    = -sum_t weight_t * J_t

Unequal epsilons give the clip-higher of DAPO (Yu et al. 2025, arXiv 2503.14476). How tokens are
averaged is the business of the weights: see `grpo_core.masking.token_weights`. DAPO and Dr. GRPO
are this loss with other weights and advantages, and have no function of their own: see
configs/recipes/dapo.toml and dr_grpo.toml.

Shape letters: B completions, T tokens of a completion.
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


def grpo_loss(
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
) -> LossOutput:
    """Clipped surrogate, plus `beta` times a per-token estimate of the KL to the reference.

    Only `logprobs` receives a gradient. Masked positions may hold anything in every argument.

    Args:
        logprobs: [B, T] policy log-probabilities of the sampled tokens, nats.
        old_logprobs: [B, T] those of the policy that sampled them; on-policy, `logprobs.detach()`.
        advantages: [B] one for each completion, or [B, T] one for each token.
        weights: [B, T] from `grpo_core.masking.token_weights`.
        completion_mask: [B, T] 1 on trained tokens.
        epsilon_low: below 1 - epsilon_low the ratio stops mattering where the advantage is < 0.
        epsilon_high: likewise above 1 + epsilon_high where it is > 0. Both >= 0; inf never clips.
        beta: weight of the KL, >= 0. At 0 `ref_logprobs` is never read.
        ref_logprobs: [B, T] those of the frozen reference; needed when beta > 0.
        kl_estimator: "k1", "k2" or "k3"; see `grpo_core.kl` for what each does as a loss.

    Returns:
        The loss, and the metrics `num_tokens`, `clipped_low_tokens`, `clipped_high_tokens` (int64),
        `ratio_sum`, `log_ratio_sum`, `log_ratio_square_sum` and, when beta > 0, `kl_sum` (float64).

    Raises:
        ShapeError: if a shape is not as above.
        ConfigError: if a setting is out of range, or beta > 0 comes without `ref_logprobs`.
    """
    check_epsilons(epsilon_low, epsilon_high)
    terms = read_terms(logprobs, old_logprobs, advantages, weights, completion_mask)
    ratio = terms.log_ratio.exp()
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
