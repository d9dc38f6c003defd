"""The passes of `native.c` as functions of tensors.

Chains of small torch operations write every intermediate result to memory, often in float32; here
each chain is one pass. Only for contiguous bfloat16 on CPUs, and only for tensors large enough that
it matters: whether these or the plain functions compute depends on dtype, device and size alone, so
equal runs stay equal.

N rows, H numbers each.
"""

from __future__ import annotations

from ctypes import CDLL, c_float, c_int, c_int64, c_void_p
from functools import cache

import torch
from torch import Tensor

from grpo_core.kernels.native_build import load_native

# Numbers. Below, a process need not build or load anything; a training step's are larger.
_WORTH_IT = 1 << 15
_BLOCK = 64  # rows; native.c has the same number
_ARGUMENTS = {  # how many pointers, counts, numbers; the number of threads follows
    "rms_norm": (4, 2, 1),
    "rms_norm_backward": (6, 2, 0),
    "swiglu": (3, 2, 0),
    "swiglu_backward": (5, 2, 0),
    "rotate": (4, 3, 1),
    "attention_weights": (7, 5, 1),
}


def serves(first: Tensor, *others: Tensor) -> bool:
    """Whether the functions below can take these tensors, of which the first is the largest."""
    return (
        first.numel() >= _WORTH_IT
        and all(t.dtype is torch.bfloat16 and t.device.type == "cpu" for t in (first, *others))
        and _library() is not None
    )


def describe() -> str:
    """Whether there are compiled passes, and if not why, for people."""
    native = load_native()
    return "compiled passes" if native.library else f"no compiled passes ({native.reason})"


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`kernels.rms_norm` of [..., H], and the factors of its rows, [..., 1] float32."""
    x = x.contiguous()
    output = torch.empty_like(x)
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    _call("rms_norm", x, weight.contiguous(), output, scale, scale.numel(), x.shape[-1], eps)
    return output, scale


def rms_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    grad, x = grad.contiguous(), x.contiguous()
    grad_x, rows, size = torch.empty_like(x), scale.numel(), x.shape[-1]
    sums = x.new_empty(-(-rows // _BLOCK), size, dtype=torch.float32)
    _call("rms_norm_backward", grad, x, weight.contiguous(), scale, grad_x, sums, rows, size)
    return grad_x, sums.sum(0).to(weight.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate, up = gate.contiguous(), up.contiguous()
    output = torch.empty_like(gate)
    _call("swiglu", gate, up, output, *_matrix(gate))
    return output


def swiglu_backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(gate)
    _call("swiglu_backward", grad, gate, up, grad_gate, grad_up, *_matrix(gate))
    return grad_gate, grad_up


def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """`kernels.rotary.rotate` of [N, heads, D]; sign -1 turns the other way."""
    x = x.contiguous()
    output = torch.empty_like(x)
    _call("rotate", x, cos.contiguous(), sin.contiguous(), output, *x.shape, sign)
    return output


def attention_weights(
    scores: Tensor,
    key_order: Tensor,
    query_order: Tensor,
    log_sums: Tensor,
    scaling: float,
    grad_weights: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """exp(scaling scores - log_sums), and 0 where a key is hidden: P of a tile's backward pass.

    Args:
        scores: [J*B, Q*R, K], contiguous.
        key_order: [B, K]
        query_order: [B, Q]
        log_sums: [J*B, Q*R, 1] float32
        scaling: of the scores.
        grad_weights: [J*B, Q*R, K], contiguous; then the result is P (grad_weights - shift).
        shift: [J*B, Q*R, 1] float32, beside `grad_weights`.

    Returns:
        [J*B, Q*R, K]
    """
    output = torch.empty_like(scores)
    (products, width, keys), (segments, queries) = scores.shape, query_order.shape
    _call(
        "attention_weights",
        *(scores, key_order, query_order, log_sums, grad_weights, shift, output),
        *(products * width, segments, queries, width // queries, keys),
        scaling,
    )
    return output


def _matrix(tensor: Tensor) -> tuple[int, int]:
    return tensor.numel() // tensor.shape[-1], tensor.shape[-1]


def _call(name: str, *arguments: Tensor | float | None) -> None:
    library = _library()
    assert library is not None
    assert all(a.is_contiguous() for a in arguments if isinstance(a, Tensor))
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    getattr(library, name)(*values, torch.get_num_threads())


@cache
def _library() -> CDLL | None:
    library = load_native().library
    if library is not None:
        for name, (pointers, counts, numbers) in _ARGUMENTS.items():
            function = getattr(library, name)
            kinds = [c_void_p] * pointers + [c_int64] * counts + [c_float] * numbers
            function.argtypes, function.restype = [*kinds, c_int], None
    return library
