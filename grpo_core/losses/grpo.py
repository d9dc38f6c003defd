"""The GRPO loss: clipped surrogate with a KL penalty (Shao et al. 2024, arXiv 2402.03300, eq. 3).

    ratio_t = exp(logprobs_t - old_logprobs_t)
    J_t     = min(ratio_t * A, clip(ratio_t, 1 - epsilon_low, 1 + epsilon_high) * A) - beta * k3_t
    loss    = -sum_t weight_t * J_t

Unequal epsilons give the clip-higher of DAPO (Yu et al. 2025, arXiv 2503.14476). How tokens are
averaged is the business of the weights: see `grpo_core.masking.token_weights`.

Shape letters: B completions, T tokens of a completion.
"""

from __future__ import annotations

import torch

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.kl import k3
from grpo_core.losses.output import LossOutput
from grpo_core.masking import as_mask, masked_sum, zero_masked


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
) -> LossOutput:
    """Clipped surrogate, plus `beta` times the per-token k3 estimate of the KL to the reference.

    Only `logprobs` receives a gradient. Masked positions may hold anything in every argument.

    Args:
        logprobs: [B, T] policy log-probabilities of the sampled tokens, nats.
        old_logprobs: [B, T] those of the policy that sampled them; on-policy, `logprobs.detach()`.
        advantages: [B] one for each completion.
        weights: [B, T] from `grpo_core.masking.token_weights`.
        completion_mask: [B, T] 1 on trained tokens.
        epsilon_low: below 1 - epsilon_low the ratio stops mattering where the advantage is < 0.
        epsilon_high: likewise above 1 + epsilon_high where it is > 0. Both >= 0; inf never clips.
        beta: weight of the KL, >= 0. At 0 `ref_logprobs` is never read.
        ref_logprobs: [B, T] those of the frozen reference; needed when beta > 0.

    Returns:
        The loss, and the metrics `num_tokens`, `clipped_low_tokens`, `clipped_high_tokens` (int64),
        `ratio_sum`, `log_ratio_sum`, `log_ratio_square_sum` and, when beta > 0, `kl_sum` (float64).

    Raises:
        ShapeError: if a shape is not as above.
        ConfigError: if a setting is out of range, or beta > 0 comes without `ref_logprobs`.
    """
    _check_settings(epsilon_low, epsilon_high, beta)
    mask = as_mask(completion_mask, "completion_mask")
    _check_shapes(logprobs, old_logprobs, advantages, weights, mask)

    logprobs = zero_masked(logprobs, mask)
    log_ratio = logprobs - zero_masked(old_logprobs.detach(), mask)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    advantage = advantages.detach().to(ratio.dtype).unsqueeze(1).expand_as(ratio)
    advantage = zero_masked(advantage, mask)
    per_token = -torch.minimum(ratio * advantage, clipped_ratio * advantage)
    metrics = {
        "num_tokens": mask.sum(),
        "clipped_low_tokens": ((ratio < 1 - epsilon_low) & (advantage < 0)).sum(),
        "clipped_high_tokens": ((ratio > 1 + epsilon_high) & (advantage > 0)).sum(),
        "ratio_sum": _total(ratio, mask),
        "log_ratio_sum": _total(log_ratio, mask),
        "log_ratio_square_sum": _total(log_ratio.square(), mask),
    }
    if beta > 0:
        kl = k3(logprobs, _reference(ref_logprobs, mask, beta))
        per_token = per_token + beta * kl
        metrics["kl_sum"] = _total(kl, mask)
    loss = (per_token * zero_masked(weights.detach().to(ratio.dtype), mask)).sum()
    return LossOutput(loss, metrics)


def _check_settings(epsilon_low: float, epsilon_high: float, beta: float) -> None:
    for name, value in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        if not value >= 0:
            raise ConfigError(
                f"{name} must be >= 0, got {value}: it is a distance from ratio 1. "
                f"Set grpo.{name}, usually 0.2."
            )
    if not 0 <= beta < float("inf"):
        raise ConfigError(
            f"beta must be >= 0 and finite, got {beta}: a negative one would reward leaving the "
            "reference. Set grpo.beta."
        )


def _check_shapes(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    mask: torch.Tensor,
) -> None:
    if logprobs.ndim != 2:
        raise ShapeError(f"logprobs must be [B, T], got {list(logprobs.shape)}.")
    per_token = {"old_logprobs": old_logprobs, "weights": weights, "completion_mask": mask}
    for name, tensor in per_token.items():
        if tensor.shape != logprobs.shape:
            raise ShapeError(
                f"{name} must have the shape of logprobs {list(logprobs.shape)}, "
                f"got {list(tensor.shape)}: it belongs to the same tokens."
            )
    if advantages.shape != logprobs.shape[:1]:
        raise ShapeError(
            f"advantages must be [{logprobs.shape[0]}], got {list(advantages.shape)}: one for each "
            "completion. Flatten the [P, G] of group_advantages in the order of the rows."
        )


def _reference(ref_logprobs: torch.Tensor | None, mask: torch.Tensor, beta: float) -> torch.Tensor:
    if ref_logprobs is None:
        raise ConfigError(
            f"beta = {beta} needs ref_logprobs, got None: there is no reference to measure the KL "
            "from. Pass the reference's log-probabilities [B, T], or set grpo.beta = 0."
        )
    if ref_logprobs.shape != mask.shape:
        raise ShapeError(
            f"ref_logprobs must have the shape of logprobs {list(mask.shape)}, "
            f"got {list(ref_logprobs.shape)}: it belongs to the same tokens."
        )
    return zero_masked(ref_logprobs.detach(), mask)


def _total(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return masked_sum(values.detach().double(), mask)
