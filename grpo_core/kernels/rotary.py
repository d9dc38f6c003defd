"""Rotary positions: pairs of a head's numbers turned by an angle that grows with the position.

    (a, b) -> (a cos - b sin, b cos + a sin)        (Su et al. 2021, arXiv 2104.09864, equation 34)

with the first half of a head's numbers as a and the second as b, as transformers lays them out. The
backward pass turns the other way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.kernels import native


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every head by the angles of its place.

    Args:
        x: [N, H, D], D even.
        cos: [N, D] of the angles, both halves alike; takes no gradient.
        sin: [N, D]

    Returns:
        [N, H, D] in the dtype of `x`; differentiable once.
    """
    output: Tensor = _Rotate.apply(x, cos, sin)
    return output


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        if native.serves(x, cos, sin):
            return native.rotate(x, cos, sin, 1.0)
        return turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        if native.serves(grad, cos, sin):
            return native.rotate(grad, cos, sin, -1.0), None, None
        return turn(grad, cos, -sin), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` without a gradient of its own."""
    half = x.shape[-1] // 2
    turned = x * cos.unsqueeze(1)
    sin = sin[:, None, :half]
    turned[..., :half].addcmul_(x[..., half:], sin, value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin)
    return turned
