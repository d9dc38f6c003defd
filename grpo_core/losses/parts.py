"""What the policy losses have in common: checked inputs, the KL term, the weighted sum, metrics.

A loss reads its arguments with `read_terms`, works out one value for each token from `terms.ratio`
(or a ratio of its own) and `terms.advantage`, and hands it to `finish`.

Shape letters: B completions, T tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from grpo_core.errors import ConfigError, ShapeError, unknown_name
from grpo_core.kl import k1, k2, k3
from grpo_core.losses.output import LossOutput
from grpo_core.masking import as_mask, masked_sum, zero_masked

KlEstimator = Literal["k1", "k2", "k3"]

KL_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}


class Terms(NamedTuple):
    """Arguments of a policy loss, 0 wherever masked.

    Attributes:
        logprobs: [B, T] of the policy; the only one with a gradient.
        log_ratio: [B, T] logprobs - old_logprobs.
        advantage: [B, T] the completion's advantage at each of its tokens.
        weights: [B, T] share of each token in the loss of the whole batch.
        mask: [B, T] bool.
    """

    logprobs: torch.Tensor
    log_ratio: torch.Tensor
    advantage: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor


def read_terms(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    weights: torch.Tensor,
    completion_mask: torch.Tensor,
) -> Terms:
    """Check shapes, cut gradients, and replace what is masked.

    Raises:
        ShapeError: if a shape is not as `grpo_core.losses.grpo.grpo_loss` says.
    """
    mask = as_mask(completion_mask, "completion_mask")
    _check_shapes(logprobs, old_logprobs, advantages, weights, mask)
    logprobs = zero_masked(logprobs, mask)
    per_token = advantages if advantages.ndim == 2 else advantages.unsqueeze(1).expand_as(mask)
    return Terms(
        logprobs,
        logprobs - zero_masked(old_logprobs.detach(), mask),
        zero_masked(per_token.detach().to(logprobs.dtype), mask),
        zero_masked(weights.detach().to(logprobs.dtype), mask),
        mask,
    )


def clipped_surrogate(
    ratio: torch.Tensor, advantage: torch.Tensor, epsilon_low: float, epsilon_high: float
) -> torch.Tensor:
    """min(ratio * A, clip(ratio) * A) of PPO (arXiv 1707.06347, eq. 7), to be maximised.

    Args:
        ratio: [B, T].
        advantage: [B, T].
        epsilon_low: below 1 - epsilon_low the ratio stops mattering where A < 0.
        epsilon_high: above 1 + epsilon_high it stops mattering where A > 0.
    """
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return torch.minimum(ratio * advantage, clipped * advantage)


def finish(
    surrogate: torch.Tensor,
    terms: Terms,
    ratio: torch.Tensor,
    *,
    clipped_low: torch.Tensor,
    clipped_high: torch.Tensor,
    beta: float,
    ref_logprobs: torch.Tensor | None,
    kl_estimator: KlEstimator,
) -> LossOutput:
    """The loss -sum(weights * (surrogate - beta * KL)), and its metrics.

    Args:
        surrogate: [B, T] what each token adds to the objective.
        terms: from `read_terms`.
        ratio: [B, T] the ratios that were clipped.
        clipped_low: [B, T] bool, where the lower bound took the gradient away or lowered it.
        clipped_high: [B, T] bool, likewise for the upper one.
        beta: weight of the KL, >= 0. At 0 `ref_logprobs` is never read.
        ref_logprobs: [B, T] or None.
        kl_estimator: "k1", "k2" or "k3".

    Raises:
        ConfigError: if beta > 0 comes without `ref_logprobs`, or a setting is out of range.
        ShapeError: if `ref_logprobs` has another shape.
    """
    _check_kl(beta, kl_estimator)
    mask = terms.mask
    per_token = -surrogate
    metrics = {
        "num_tokens": mask.sum(),
        "clipped_low_tokens": (clipped_low & mask).sum(),
        "clipped_high_tokens": (clipped_high & mask).sum(),
        "ratio_sum": _total(ratio, mask),
        "log_ratio_sum": _total(terms.log_ratio, mask),
        "log_ratio_square_sum": _total(terms.log_ratio.square(), mask),
    }
    if beta > 0:
        estimate = KL_ESTIMATORS[kl_estimator]
        kl = estimate(terms.logprobs, _reference(ref_logprobs, mask, beta))
        per_token = per_token + beta * kl
        metrics["kl_sum"] = _total(kl, mask)
    return LossOutput((per_token * terms.weights).sum(), metrics)


def check_epsilons(epsilon_low: float, epsilon_high: float) -> None:
    """Refuse clip bounds that are no distance from ratio 1.

    Raises:
        ConfigError: if one is negative or NaN.
    """
    for name, value in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        if not value >= 0:
            raise ConfigError(
                f"{name} must be >= 0, got {value}: it is a distance from ratio 1. "
                f"Set grpo.{name}, usually 0.2."
            )


def _check_kl(beta: float, kl_estimator: str) -> None:
    if not 0 <= beta < float("inf"):
        raise ConfigError(
            f"beta must be >= 0 and finite, got {beta}: a negative one would reward leaving the "
            "reference. Set grpo.beta."
        )
    if kl_estimator not in KL_ESTIMATORS:
        raise ConfigError(unknown_name("KL estimator", str(kl_estimator), KL_ESTIMATORS))


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
    if advantages.shape not in (logprobs.shape[:1], logprobs.shape):
        raise ShapeError(
            f"advantages must be [{logprobs.shape[0]}] or {list(logprobs.shape)}, got "
            f"{list(advantages.shape)}: one for each completion, or for each token. Flatten the "
            "[P, G] of group_advantages in the order of the rows."
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
