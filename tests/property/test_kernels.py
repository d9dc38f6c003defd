"""Norm, gate and rotary positions against the chains of operations they stand for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from grpo_core.kernels.rms_norm import rms_norm
from grpo_core.kernels.rotary import rotate
from grpo_core.kernels.swiglu import swiglu

seeds = st.integers(0, 2**31)


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
    return values.requires_grad_()


def agrees(mine: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    expected, got = theirs(*inputs), mine(*inputs)
    assert_close(got, expected)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, upstream)
    assert_close(torch.autograd.grad(got, inputs, upstream), wanted)


@given(seeds, st.sampled_from([1e-5, 0.1]), st.sampled_from([0.0, 1e-4, 1.0, 1e4]))
def test_rms_norm(seed: int, eps: float, scale: float) -> None:
    def theirs(x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, eps)

    x, weight = numbers(seed, 2, 3, 8, scale=scale), numbers(seed + 1, 8)
    agrees(lambda x, w: rms_norm(x, w, eps), theirs, x, weight)


@given(seeds, st.sampled_from([0.1, 1.0, 30.0]))
def test_swiglu(seed: int, scale: float) -> None:
    gate, up = numbers(seed, 5, 6, scale=scale), numbers(seed + 1, 5, 6)
    agrees(swiglu, lambda g, u: functional.silu(g) * u, gate, up)


@given(seeds)
def test_rotate(seed: int) -> None:
    angles = torch.arange(7.0, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.1, 0.01])
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()

    def theirs(x: Tensor) -> Tensor:
        pairs = torch.complex(x[..., :3], x[..., 3:])
        turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None, :3]
        return torch.cat([turned.real, turned.imag], -1)

    agrees(lambda x: rotate(x, cos, sin), theirs, numbers(seed, 7, 2, 6))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: rms_norm(x, torch.ones(6, dtype=torch.float64), 1e-5),
        lambda x: swiglu(x, x.flip(0)),
        lambda x: rotate(x[:, None], torch.ones(4, 6).double() * 0.6, torch.ones(4, 6).double()),
    ],
)
def test_passes_gradcheck(function: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(function, (numbers(0, 4, 6),))


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, weight = numbers(0, 3, 8), torch.ones(8, dtype=torch.float64)
    rms_norm(x, weight, 1e-5).sum().backward()
    assert x.grad is not None and weight.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_results_have_the_dtype_of_their_inputs(dtype: torch.dtype) -> None:
    x = numbers(0, 3, 8).detach().to(dtype).requires_grad_()
    weight = torch.ones(8, dtype=dtype, requires_grad=True)
    made = swiglu(rms_norm(x, weight, 1e-5), x)
    turned = rotate(made[:, None], torch.ones(3, 8, dtype=dtype), torch.ones(3, 8, dtype=dtype))
    turned.sum().backward()
    assert x.grad is not None and weight.grad is not None
    assert {turned.dtype, x.grad.dtype, weight.grad.dtype} == {dtype}
