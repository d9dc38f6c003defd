from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError
from grpo_core.pass_at_k import pass_at_k


@st.composite
def counts(draw: st.DrawFn, max_n: int = 400) -> tuple[int, int, int]:
    n = draw(st.integers(1, max_n))
    return n, draw(st.integers(0, n)), draw(st.integers(1, n))


def test_equals_brute_force_for_every_small_case() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            outcomes = [i < c for i in range(n)]
            for k in range(1, n + 1):
                subsets = list(combinations(outcomes, k))
                expected = sum(any(subset) for subset in subsets) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-15)


@given(counts())
def test_equals_exact_binomials(case: tuple[int, int, int]) -> None:
    n, c, k = case
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=0, abs=1e-13)


@given(st.integers(1, 10_000), st.data())
def test_pass_at_1_is_the_pass_rate(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    assert pass_at_k(n, c, 1) == pytest.approx(c / n, abs=1e-15)


@given(counts(), st.data())
def test_never_falls_when_k_or_c_grows(case: tuple[int, int, int], data: st.DataObject) -> None:
    n, c, k = case
    more_draws, more_correct = data.draw(st.integers(k, n)), data.draw(st.integers(c, n))
    assert pass_at_k(n, c, more_draws) >= pass_at_k(n, c, k)
    assert pass_at_k(n, more_correct, k) >= pass_at_k(n, c, k)


@given(counts())
def test_certain_outcomes_are_exact(case: tuple[int, int, int]) -> None:
    n, c, k = case
    value = pass_at_k(n, c, k)
    assert isinstance(value, float)
    assert 0 <= value <= 1
    assert (value == 0) == (c == 0)
    if n - c < k:
        assert value == 1
    assert pass_at_k(n, 0, k) == 0
    assert pass_at_k(n, n, k) == 1


def test_huge_counts_neither_overflow_nor_take_long() -> None:
    assert pass_at_k(10**12, 10**6, 1) == pytest.approx(1e-6)
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@given(st.lists(counts(max_n=30), min_size=1, max_size=6))
def test_arrays_give_what_scalars_give(cases: list[tuple[int, int, int]]) -> None:
    n, c, k = (list(column) for column in zip(*cases, strict=True))
    got = pass_at_k(n, c, k)
    assert got.dtype == np.float64
    assert got.tolist() == [pass_at_k(*case) for case in cases]


def test_shapes_broadcast() -> None:
    curve = pass_at_k(8, np.array([[0], [4], [8]]), np.array([1, 2, 8], dtype=np.uint8))
    assert curve.shape == (3, 3)
    assert curve[1].tolist() == [0.5, pass_at_k(8, 4, 2), 1.0]
    assert isinstance(pass_at_k(np.int64(8), np.int32(4), 1), float)
    assert pass_at_k([], [], 1).shape == (0,)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, 5, 1, r"c must be in \[0, n\], got 5 with n = 4"),
        (4, -1, 1, r"c must be in \[0, n\], got -1"),
        (4, 2, 5, r"k must be in \[1, n\], got 5 with n = 4.*Sample more"),
        (4, 2, 0, r"k must be in \[1, n\], got 0"),
        (4, 2, -1, "got -1"),
        (0, 0, 1, "got 1 with n = 0"),
        (-3, 0, 1, "c must be in"),
        (4, 2.5, 1, "c must be an integer, got 2.5"),
        (4.0, 2, 1, "n must be an integer, got 4.0"),
        (4, float("nan"), 1, "c must be an integer, got nan"),
        (4, True, 1, "c must be an integer, got True"),
        (4, None, 1, "c must be an integer, got None"),
        (4, "2", 1, "c must be an integer, got '2'"),
        ([4, 4], [1, 5], 1, "got 5 with n = 4"),
        ([4, 4], [1, 2, 3], 1, "broadcast"),
    ],
)
def test_impossible_counts_are_refused(n: object, c: object, k: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pass_at_k(n, c, k)


def test_does_not_import_torch() -> None:
    code = "import sys, grpo_core.pass_at_k, grpo_core.intervals; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
