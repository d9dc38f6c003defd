"""The gate of a gated MLP: silu(gate) * up, of which only the inputs are kept.

With s = sigmoid(gate):  d up = dy gate s,   d gate = dy up s (1 + gate (1 - s)).
Source: Shazeer 2020, "GLU Variants Improve Transformer", arXiv 2002.05202.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.kernels import native


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of equal shapes; differentiable once."""
    output: Tensor = _SwiGlu.apply(gate, up)
    return output


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        if native.serves(gate, up):
            return native.swiglu(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        if native.serves(gate, up, grad):
            return native.swiglu_backward(grad, gate, up)
        grad_up = torch.nn.functional.silu(gate).mul_(grad)
        grad_gate = grad * up
        torch.ops.aten.silu_backward(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, grad_up
