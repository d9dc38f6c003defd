"""Per-token estimates of KL(policy || reference) from tokens the policy sampled.

With d = ref_logprobs - logprobs at the sampled token:

    k1 = -d                  unbiased, high variance, may be negative
    k2 = d^2 / 2             biased, low variance, >= 0
    k3 = exp(d) - 1 - d      unbiased, low variance, >= 0

Source: J. Schulman 2020, "Approximating KL Divergence", http://joschu.net/blog/kl-approx.html;
k3 is the penalty of GRPO (Shao et al. 2024, arXiv 2402.03300, eq. 4).

As a term of the loss each has another gradient, in expectation over the policy's own tokens: k1
none at all, k2 that of KL(policy || reference), k3 that of KL(reference || policy).

Left out: clamping. k3 overflows where the reference finds a token e^88 times likelier than the
policy does (float32), which is worth an alarm and not a silent repair.
"""

from __future__ import annotations

import torch

from grpo_core.errors import ShapeError


def k1(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Log-ratio of policy to reference: unbiased, but noisy and of either sign.

    Args:
        logprobs: policy log-probabilities of the sampled tokens, nats, any shape.
        ref_logprobs: the reference's, same shape.

    Returns:
        The estimate for each token, nats, same shape.

    Raises:
        ShapeError: if the shapes differ.
    """
    return -_ref_minus_policy(logprobs, ref_logprobs)


def k2(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Half the squared log-ratio: biased, but with the gradient of KL(policy || reference).

    Args:
        logprobs: policy log-probabilities of the sampled tokens, nats, any shape.
        ref_logprobs: the reference's, same shape.

    Returns:
        The estimate for each token, nats, >= 0, same shape.

    Raises:
        ShapeError: if the shapes differ.
    """
    return _ref_minus_policy(logprobs, ref_logprobs).square() / 2


def k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """exp(d) - 1 - d: unbiased, never negative, and 0 only where policy and reference agree.

    Args:
        logprobs: policy log-probabilities of the sampled tokens, nats, any shape.
        ref_logprobs: the reference's, same shape.

    Returns:
        The estimate for each token, nats, >= 0, same shape.

    Raises:
        ShapeError: if the shapes differ.
    """
    d = _ref_minus_policy(logprobs, ref_logprobs)
    # expm1 keeps the digits exp(d) - 1 would cancel, and, rounded faithfully, is never below d.
    return torch.expm1(d) - d


def _ref_minus_policy(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    if logprobs.shape != ref_logprobs.shape:
        raise ShapeError(
            f"logprobs and ref_logprobs must have one shape, got {list(logprobs.shape)} and "
            f"{list(ref_logprobs.shape)}: both score the same tokens."
        )
    return ref_logprobs - logprobs
