from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.logprobs import chunked_token_logprobs, token_logprobs

temperatures = st.sampled_from([0.5, 1.0, 1.7])
seeds = st.integers(0, 2**32 - 1)


def example(
    seed: int, rows: int = 7, width: int = 5, vocabulary: int = 11, dtype: Any = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden [N, H], weight [V, H], bias [V], and token_ids [N]."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, width), (vocabulary, width), (vocabulary,))
    )
    token_ids = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden, weight, bias, token_ids


def softmax_oracle(logits: list[float], token: int, temperature: float) -> float:
    scaled = [logit / temperature for logit in logits]
    highest = max(scaled)
    return scaled[token] - highest - math.log(math.fsum(math.exp(x - highest) for x in scaled))


@given(
    st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=20),
    st.data(),
    temperatures,
)
def test_equals_plain_python(logits: list[float], data: st.DataObject, temperature: float) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    expected = softmax_oracle(logits, token, temperature)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        got = token_logprobs(torch.tensor(logits, dtype=dtype), torch.tensor(token), temperature)
        assert got.dtype == dtype
        assert got.item() == pytest.approx(expected, rel=tolerance, abs=20 * tolerance)


@given(seeds, temperatures)
def test_probabilities_of_all_tokens_sum_to_one(seed: int, temperature: float) -> None:
    hidden, weight, bias, _ = example(seed)
    every_token = torch.arange(11).expand(7, 11)
    logits = (hidden @ weight.T + bias).unsqueeze(1).expand(7, 11, 11)
    total = token_logprobs(logits, every_token, temperature).exp().sum(-1)
    assert_close(total, torch.ones_like(total))


@given(seeds, st.floats(-1e4, 1e4))
def test_a_shift_of_all_logits_changes_nothing(seed: int, shift: float) -> None:
    hidden, weight, _, token_ids = example(seed)
    logits = hidden @ weight.T
    assert_close(token_logprobs(logits + shift, token_ids), token_logprobs(logits, token_ids))


@given(seeds, temperatures)
def test_gradient_of_token_logprobs(seed: int, temperature: float) -> None:
    hidden, weight, _, token_ids = example(seed, rows=3, vocabulary=4)
    logits = (hidden @ weight.T).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, token_ids, temperature), logits)


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = torch.tensor([8.0, 0.0, 0.0], dtype=torch.bfloat16)
    got = token_logprobs(logits, torch.tensor(0))
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(-math.log1p(2 * math.exp(-8)), rel=1e-3)


def test_large_logits_do_not_overflow_and_banned_tokens_have_no_chance() -> None:
    logits = torch.tensor([[1e30, 0.0, -math.inf]] * 3, requires_grad=True)
    got = token_logprobs(logits, torch.tensor([0, 1, 2]))
    assert got.tolist() == [0.0, pytest.approx(-1e30), -math.inf]
    got[0].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@given(seeds, temperatures, st.integers(1, 90), st.booleans())
def test_chunked_equals_plain_in_value_and_gradients(
    seed: int, temperature: float, size: int, with_bias: bool
) -> None:
    hidden, weight, bias, token_ids = example(seed)
    inputs = [hidden, weight, bias] if with_bias else [hidden, weight]
    upstream = torch.linspace(-1, 1, len(hidden), dtype=torch.float64)
    logits = hidden @ weight.T + (bias if with_bias else 0)
    plain = token_logprobs(logits, token_ids, temperature)
    chunked = chunked_token_logprobs(
        hidden,
        weight,
        token_ids,
        bias=bias if with_bias else None,
        temperature=temperature,
        chunk_logits=size,
    )
    assert_close(chunked, plain)
    expected = torch.autograd.grad(plain, inputs, upstream)
    got = torch.autograd.grad(chunked, inputs, upstream)
    for mine, theirs in zip(got, expected, strict=True):
        assert_close(mine, theirs)


def test_chunked_large_logits_do_not_overflow() -> None:
    hidden, weight, _, token_ids = example(9)
    hidden = (hidden.detach() * 1e4).requires_grad_()
    value = chunked_token_logprobs(hidden, weight, token_ids)
    value.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.isfinite().all()
    assert_close(value, token_logprobs(hidden @ weight.T, token_ids))


@pytest.mark.parametrize("size", [1, 9, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_passes_gradcheck(size: int, temperature: float) -> None:
    hidden, weight, bias, token_ids = example(0, rows=4, width=3, vocabulary=5)

    def function(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return chunked_token_logprobs(
            h, w, token_ids, bias=b, temperature=temperature, chunk_logits=size
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@given(seeds, st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_size_of_chunks_changes_nothing_in_training_precision(
    seed: int, dtype: torch.dtype
) -> None:
    hidden, weight, bias, token_ids = example(seed, rows=33, vocabulary=40, dtype=dtype)
    results = []
    for size in (1, 300, 10_000):
        value = chunked_token_logprobs(hidden, weight, token_ids, bias=bias, chunk_logits=size)
        results.append((value, *torch.autograd.grad(value.sum(), [hidden, weight, bias])))
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for other in results[1:]:
        for mine, first in zip(other, results[0], strict=True):
            assert_close(mine, first, rtol=tolerance, atol=tolerance)


def test_dtypes_of_values_and_gradients() -> None:
    hidden, weight, bias, token_ids = example(1, dtype=torch.bfloat16)
    value = chunked_token_logprobs(hidden, weight, token_ids, bias=bias)
    value.sum().backward()
    assert value.dtype == torch.float32
    for tensor in (hidden, weight, bias):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.bfloat16


def test_weight_gradient_is_summed_in_float32_over_bfloat16_chunks() -> None:
    # Each row alone gives token 0 the gradient 0.5, on a first row that gives it 128. Added in
    # bfloat16, whose spacing there is 1, the halves would all be lost.
    rows = 65
    hidden = torch.ones(rows, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    upstream = torch.ones(rows)
    upstream[0] = 256
    value = chunked_token_logprobs(
        hidden, weight, torch.zeros(rows, dtype=torch.int64), chunk_logits=1
    )
    value.backward(upstream)
    assert weight.grad is not None
    assert weight.grad[0].item() == 128 + 32


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@contextmanager
def largest_tensor() -> Iterator[LargestTensor]:
    with LargestTensor() as seen:
        yield seen


def test_no_pass_ever_holds_all_logits() -> None:
    rows, vocabulary, size = 64, 100, 800
    hidden, weight, bias, token_ids = example(2, rows=rows, vocabulary=vocabulary)
    with largest_tensor() as plain:
        token_logprobs(hidden @ weight.T, token_ids).sum().backward()
    assert plain.elements >= rows * vocabulary, "the probe must see what it looks for"
    with largest_tensor() as chunked:
        value = chunked_token_logprobs(hidden, weight, token_ids, bias=bias, chunk_logits=size)
        value.sum().backward()
    assert chunked.elements <= size


@pytest.mark.parametrize("needed", [(True, False), (False, True), (False, False)])
def test_computes_only_the_gradients_that_are_needed(needed: tuple[bool, bool]) -> None:
    hidden, weight, _, token_ids = example(3)
    hidden, weight = (
        tensor.detach().requires_grad_(need)
        for tensor, need in zip((hidden, weight), needed, strict=True)
    )
    value = chunked_token_logprobs(hidden, weight, token_ids)
    assert value.requires_grad == any(needed)
    if any(needed):
        value.sum().backward()
    assert (hidden.grad is not None, weight.grad is not None) == needed


def test_rows_without_gradient_are_not_recomputed_and_cannot_spoil_the_rest() -> None:
    hidden, weight, _, token_ids = example(4)
    with torch.no_grad():
        hidden[2] = math.nan
    upstream = torch.ones(len(hidden), dtype=torch.float64)
    upstream[2] = 0
    chunked_token_logprobs(hidden, weight, token_ids, chunk_logits=3).backward(upstream)
    assert hidden.grad is not None
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    assert (hidden.grad[2] == 0).all()


def test_autocast_does_not_reach_inside() -> None:
    hidden, weight, _, token_ids = example(5, dtype=torch.float32)
    expected = chunked_token_logprobs(hidden, weight, token_ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = chunked_token_logprobs(hidden, weight, token_ids)
    assert torch.equal(got, expected)


def test_no_rows_are_legal() -> None:
    hidden, weight, _, token_ids = example(6, rows=0)
    value = chunked_token_logprobs(hidden, weight, token_ids)
    value.sum().backward()
    assert value.shape == (0,)
    assert weight.grad is not None
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_do_not_exist_are_refused(temperature: float) -> None:
    hidden, weight, _, token_ids = example(7)
    for call in (
        lambda: token_logprobs(hidden @ weight.T, token_ids, temperature),
        lambda: chunked_token_logprobs(hidden, weight, token_ids, temperature=temperature),
    ):
        with pytest.raises(ConfigError, match="temperature must be > 0 and finite, got"):
            call()


def test_shapes_and_dtypes_that_do_not_fit_are_refused() -> None:
    hidden, weight, bias, token_ids = example(8)
    with pytest.raises(ShapeError, match=r"token_ids must be \[7\], got \[6\]"):
        token_logprobs(hidden @ weight.T, token_ids[1:])
    with pytest.raises(ShapeError, match=r"token_ids must be \[7\], got \[6\]"):
        chunked_token_logprobs(hidden, weight, token_ids[1:])
    with pytest.raises(ShapeError, match=r"token_ids must be int64, got torch.int32"):
        chunked_token_logprobs(hidden, weight, token_ids.int())
    with pytest.raises(ShapeError, match=r"got \[7, 5\] and \[11, 4\]"):
        chunked_token_logprobs(hidden, weight[:, 1:], token_ids)
    with pytest.raises(ShapeError, match=r"got \[1, 7, 5\] and \[11, 5\]"):
        chunked_token_logprobs(hidden.unsqueeze(0), weight, token_ids)
    with pytest.raises(ShapeError, match=r"bias must be \[11\], got \[10\]"):
        chunked_token_logprobs(hidden, weight, token_ids, bias=bias[1:])
    with pytest.raises(ShapeError, match=r"weight must have the dtype of hidden, torch.float64"):
        chunked_token_logprobs(hidden, weight.float(), token_ids)
    with pytest.raises(ConfigError, match="chunk_logits must be >= 1, got 0"):
        chunked_token_logprobs(hidden, weight, token_ids, chunk_logits=0)
