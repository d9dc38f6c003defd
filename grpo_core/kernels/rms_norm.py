"""Root mean square normalisation with a backward pass that keeps one number a row.

    y = w x / sqrt(mean(x^2) + eps)      (Zhang & Sennrich 2019, arXiv 1910.07467, equation 4)

With x' = x / sqrt(mean(x^2) + eps) and g = w dy the gradient is

    dx = (g - x' mean(g x')) / sqrt(mean(x^2) + eps),      dw = sum over rows of dy x'
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.kernels import native


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last axis.

    Args:
        x: [..., H]; computed in float32 at least, and rounded to its dtype before the weight.
        weight: [H]
        eps: added to the mean square.

    Returns:
        [..., H] in the dtype that `weight * x` has; differentiable once.
    """
    output: Tensor = _RmsNorm.apply(x, weight, eps)
    return output


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if native.serves(x, weight):
            output, scale = native.rms_norm(x, weight, eps)
            ctx.save_for_backward(x, weight, scale)
            return output
        precise = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=precise)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * (x * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        if native.serves(x, weight, grad):
            grad_x, of_weight = native.rms_norm_backward(grad, x, weight, scale)
            return grad_x, of_weight if ctx.needs_input_grad[1] else None, None
        normed = x * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (normed * grad).flatten(0, -2).sum(0).to(weight.dtype)
        inner = grad.to(scale.dtype) * weight
        share = (inner * normed).mean(-1, keepdim=True)
        grad_x = inner.addcmul_(normed, share, value=-1).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None
