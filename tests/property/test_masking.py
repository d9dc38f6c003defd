from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.masking import (
    AGGREGATIONS,
    Aggregation,
    aggregate,
    as_mask,
    masked_mean,
    masked_sum,
    token_weights,
    zero_masked,
)
from strategies import completion_masks

aggregations = st.sampled_from(AGGREGATIONS)
seeds = st.integers(0, 2**32 - 1)
junk_values = st.sampled_from([math.nan, math.inf, -math.inf, 1e30])
MAX_NEW_TOKENS = 16


def values_like(mask: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(mask.shape, generator=generator, dtype=torch.float64)


def whole(mask: torch.Tensor) -> dict[str, int]:
    return {
        "num_completions": len(mask),
        "num_tokens": int(mask.sum()),
        "max_new_tokens": MAX_NEW_TOKENS,
    }


def oracle(values: list[list[float]], mask: list[list[bool]], how: Aggregation) -> float:
    """The aggregate by its definition, completion by completion."""
    rows = [
        [value for value, counts in zip(row, flags, strict=True) if counts]
        for row, flags in zip(values, mask, strict=True)
    ]
    tokens = [value for row in rows for value in row]
    return {
        "sequence_mean": sum(sum(row) / len(row) for row in rows if row) / len(rows),
        "token_mean": sum(tokens) / max(len(tokens), 1),
        "token_sum": sum(tokens) / len(rows),
        "constant": sum(tokens) / len(rows) / MAX_NEW_TOKENS,
    }[how]


@given(completion_masks(), seeds, aggregations)
def test_aggregate_equals_its_definition(mask: torch.Tensor, seed: int, how: Aggregation) -> None:
    values = values_like(mask, seed)
    expected = oracle(values.tolist(), mask.tolist(), how)
    assert aggregate(values, mask, how, **whole(mask)).item() == pytest.approx(expected, abs=1e-12)


@given(completion_masks(), seeds, aggregations, st.integers(1, 6))
def test_micro_batches_sum_to_the_whole(
    mask: torch.Tensor, seed: int, how: Aggregation, size: int
) -> None:
    values = values_like(mask, seed)
    parts = [
        aggregate(part, part_mask, how, **whole(mask))
        for part, part_mask in zip(values.split(size), mask.split(size), strict=True)
    ]
    assert_close(sum(parts), aggregate(values, mask, how, **whole(mask)))


@given(completion_masks(), seeds, aggregations, st.integers(0, 3), st.integers(0, 3))
def test_padding_changes_nothing(
    mask: torch.Tensor, seed: int, how: Aggregation, left: int, right: int
) -> None:
    values = values_like(mask, seed)
    pad = torch.nn.functional.pad
    padded = aggregate(
        pad(values, (left, right), value=math.nan), pad(mask, (left, right)), how, **whole(mask)
    )
    assert_close(padded, aggregate(values, mask, how, **whole(mask)))


@given(completion_masks(), seeds, aggregations, junk_values)
def test_masked_junk_changes_neither_value_nor_gradient(
    mask: torch.Tensor, seed: int, how: Aggregation, junk: float
) -> None:
    clean = values_like(mask, seed).requires_grad_()
    dirty = clean.detach().masked_fill(~mask, junk).requires_grad_()
    for values in (clean, dirty):
        aggregate(values, mask, how, **whole(mask)).backward()
    assert_close(
        aggregate(dirty, mask, how, **whole(mask)), aggregate(clean, mask, how, **whole(mask))
    )
    assert torch.equal(dirty.grad, clean.grad)
    assert (dirty.grad[~mask] == 0).all()
    weights = token_weights(mask, how, **whole(mask), dtype=torch.float64)
    assert torch.equal(clean.grad, weights)


@given(completion_masks(), aggregations)
def test_weights_are_zero_where_masked_and_sum_to_what_they_should(
    mask: torch.Tensor, how: Aggregation
) -> None:
    weights = token_weights(mask, how, **whole(mask), dtype=torch.float64)
    tokens, completions = int(mask.sum()), len(mask)
    total = {
        "sequence_mean": int(mask.any(-1).sum()) / completions,
        "token_mean": min(tokens, 1),
        "token_sum": tokens / completions,
        "constant": tokens / completions / MAX_NEW_TOKENS,
    }[how]
    assert (weights[~mask] == 0).all()
    assert weights.sum().item() == pytest.approx(total)
    assert token_weights(mask, how, **whole(mask)).dtype == torch.float32


@given(completion_masks(), seeds)
def test_a_long_completion_weighs_as_much_as_a_short_one_in_sequence_mean_only(
    mask: torch.Tensor, seed: int
) -> None:
    per_sequence = token_weights(mask, "sequence_mean", **whole(mask)).sum(-1)
    assert_close(per_sequence, mask.any(-1).float() / len(mask))
    per_token = token_weights(mask, "token_mean", **whole(mask))
    assert len(per_token[mask].unique()) <= 1


def test_an_empty_completion_counts_as_a_completion() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    values = torch.tensor([[1.0, 3.0], [math.nan, math.nan]])
    counts = {"num_completions": 2, "num_tokens": 2}
    assert aggregate(values, mask, "sequence_mean", **counts).item() == 1.0
    assert aggregate(values, mask, "token_mean", **counts).item() == 2.0


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_a_batch_without_tokens_gives_zero(how: Aggregation) -> None:
    for shape in ((2, 3), (0, 3), (2, 0)):
        values = torch.full(shape, math.nan, requires_grad=True)
        mask = torch.zeros(shape, dtype=torch.bool)
        counts = {"num_completions": 2, "num_tokens": 0, "max_new_tokens": 4}
        result = aggregate(values, mask, how, **counts)
        result.backward()
        assert result.item() == 0
        assert (values.grad == 0).all()


@given(completion_masks(), seeds, junk_values)
def test_masked_sum_and_mean_see_only_what_the_mask_holds(
    mask: torch.Tensor, seed: int, junk: float
) -> None:
    values = values_like(mask, seed)
    dirty = values.masked_fill(~mask, junk)
    kept = values[mask]
    assert masked_sum(dirty, mask).item() == pytest.approx(kept.sum().item())
    assert masked_mean(dirty, mask).item() == pytest.approx(kept.sum().item() / max(len(kept), 1))
    for row, flags, total, mean in zip(
        values, mask, masked_sum(dirty, mask, dim=-1), masked_mean(dirty, mask, dim=-1), strict=True
    ):
        assert total.item() == pytest.approx(row[flags].sum().item())
        assert mean.item() == pytest.approx(row[flags].mean().item() if flags.any() else 0)


@given(completion_masks(), seeds, junk_values)
def test_masked_mean_has_a_clean_gradient(mask: torch.Tensor, seed: int, junk: float) -> None:
    values = values_like(mask, seed).masked_fill(~mask, junk).requires_grad_()
    masked_mean(values, mask).backward()
    assert_close(values.grad, mask.double() / max(int(mask.sum()), 1))


def test_zero_masked_keeps_the_dtype() -> None:
    mask = torch.tensor([True, False])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64):
        kept = zero_masked(torch.ones(2, dtype=dtype), mask)
        assert kept.dtype == dtype
        assert kept.tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.bfloat16])
def test_masks_of_zeros_and_ones_are_read_alike(dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 0], [1, 1]], dtype=dtype)
    assert as_mask(mask).tolist() == [[True, False], [True, True]]
    weights = token_weights(mask, "token_mean", num_completions=2, num_tokens=3)
    assert_close(weights, torch.tensor([[1, 0], [1, 1]]) / 3)


@pytest.mark.parametrize("strange", [0.5, 2.0, -1.0, math.nan])
def test_soft_masks_are_refused(strange: float) -> None:
    with pytest.raises(ShapeError, match="mask must hold 0 and 1 only, got"):
        as_mask(torch.tensor([1.0, strange]))


def test_shapes_and_counts_that_do_not_fit_are_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"one shape, got \[3\] and \[2, 3\]"):
        zero_masked(torch.zeros(3), mask)
    with pytest.raises(ShapeError, match=r"mask must be \[B, T\], got \[3\]"):
        token_weights(mask[0], "token_mean", num_completions=1, num_tokens=3)
    with pytest.raises(ShapeError, match="num_completions must be >= 2, got 1"):
        token_weights(mask, "token_mean", num_completions=1, num_tokens=6)
    with pytest.raises(ShapeError, match="num_tokens must be >= 6, got 5"):
        token_weights(mask, "sequence_mean", num_completions=2, num_tokens=5)
    with pytest.raises(ShapeError, match="num_completions must be >= 1, got 0"):
        token_weights(~mask, "sequence_mean", num_completions=0, num_tokens=0)


def test_settings_that_do_not_exist_are_refused() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    counts = {"num_completions": 2, "num_tokens": 6}
    with pytest.raises(ConfigError, match=r"Unknown aggregation 'token_man'. Did you mean"):
        token_weights(mask, "token_man", **counts)
    for limit in (None, 0):
        with pytest.raises(ConfigError, match=f"max_new_tokens >= 1, got {limit}"):
            token_weights(mask, "constant", **counts, max_new_tokens=limit)
