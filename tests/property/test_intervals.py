from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError
from grpo_core.intervals import _student_quantile_squared, clustered_interval

rates = st.lists(st.integers(0, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=40)


def wilson(mean: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Roots of (mean - p)^2 = z^2 p (1 - p) / n."""
    a, b, c = 1 + z**2 / n, -(2 * mean + z**2 / n), mean**2
    root = math.sqrt(max(b * b - 4 * a * c, 0))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize("true_mean", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("num_prompts", [64, 128])
@pytest.mark.parametrize("num_samples", [4, 8])
def test_covers_the_truth_as_often_as_it_says(
    true_mean: float, num_prompts: int, num_samples: int
) -> None:
    repeats = 600
    for concentration in (0.1, 1.0, 10.0, math.inf):
        rng = np.random.default_rng(20240203)
        pass_rates = beta_prompts(rng, true_mean, concentration, (repeats, num_prompts))
        samples = rng.binomial(num_samples, pass_rates) / num_samples
        for known in (None, num_prompts * num_samples):
            hits = 0
            for values in samples:
                interval = clustered_interval(values, num_completions=known)
                hits += interval.low <= true_mean <= interval.high
            assert 0.92 <= hits / repeats <= 0.995, (concentration, hits / repeats)


def beta_prompts(
    rng: np.random.Generator, mean: float, concentration: float, shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Pass rates of prompts: all alike at infinity, all or nothing towards 0."""
    if concentration == math.inf:
        return np.full(shape, mean)
    return rng.beta(mean * concentration, (1 - mean) * concentration, shape)


def test_ignoring_the_clusters_would_fail_that_test() -> None:
    rng = np.random.default_rng(0)
    samples = rng.binomial(8, beta_prompts(rng, 0.5, 0.1, (400, 64))) / 8
    hits = 0
    for values in samples:
        low, high = wilson(values.mean(), 64 * 8)
        hits += low <= 0.5 <= high
    assert hits / 400 < 0.6


@given(rates, st.floats(0.5, 0.999))
def test_the_mean_lies_inside_and_the_interval_inside_the_unit(
    values: list[float], confidence: float
) -> None:
    mean, low, high = clustered_interval(values, confidence)
    assert mean == pytest.approx(np.mean(values))
    assert 0 <= low <= mean <= high <= 1
    assert low < high


@given(rates)
def test_success_and_failure_are_symmetric(values: list[float]) -> None:
    success, failure = clustered_interval(values), clustered_interval([1 - v for v in values])
    assert failure.low == pytest.approx(1 - success.high, abs=1e-9)
    assert failure.high == pytest.approx(1 - success.low, abs=1e-9)


@given(st.data())
def test_the_order_of_prompts_does_not_matter(data: st.DataObject) -> None:
    values = data.draw(rates)
    shuffled = data.draw(st.permutations(values))
    assert clustered_interval(shuffled) == pytest.approx(clustered_interval(values), abs=1e-9)


@given(rates, st.floats(0.5, 0.9), st.floats(0.91, 0.999))
def test_more_confidence_is_wider(values: list[float], less: float, more: float) -> None:
    inner, outer = clustered_interval(values, less), clustered_interval(values, more)
    assert outer.low <= inner.low + 1e-12
    assert inner.high <= outer.high + 1e-12


@given(rates, st.integers(1, 16))
def test_never_wider_than_one_answer_a_prompt_nor_narrower_than_all_completions(
    values: list[float], samples: int
) -> None:
    size = len(values)
    interval = clustered_interval(values, num_completions=size * samples)
    widest, narrowest = wilson(interval.mean, size), wilson(interval.mean, size * samples)
    assert widest[0] - 1e-6 <= interval.low <= narrowest[0] + 1e-6
    assert narrowest[1] - 1e-6 <= interval.high <= widest[1] + 1e-6


@pytest.mark.parametrize("num_prompts", [1, 2, 5, 64, 1000])
def test_stays_honest_at_zero_and_at_one(num_prompts: int) -> None:
    z2 = NormalDist().inv_cdf(0.975) ** 2
    bound = z2 / (num_prompts + z2)
    assert clustered_interval([0.0] * num_prompts) == pytest.approx((0, 0, bound))
    assert clustered_interval([1.0] * num_prompts) == pytest.approx((1, 1 - bound, 1))
    assert clustered_interval([0.0] * num_prompts).low == 0
    assert clustered_interval([1.0] * num_prompts).high == 1


def test_prompts_without_variance_count_once_each() -> None:
    interval = clustered_interval([0.5] * 64, num_completions=512)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.5, 64), abs=1e-5)


def test_a_sample_is_never_worth_more_than_its_completions() -> None:
    values = [0.45, 0.55] * 64
    capped = clustered_interval(values, num_completions=256)
    assert (capped.low, capped.high) == pytest.approx(wilson(0.5, 256), abs=1e-5)
    assert clustered_interval(values).low > capped.low


def test_all_or_nothing_prompts_are_single_answers() -> None:
    interval = clustered_interval([1.0] * 16 + [0.0] * 48, num_completions=512)
    assert (interval.low, interval.high) == pytest.approx(wilson(0.25, 64), abs=1e-5)


def test_independent_completions_approach_the_size_of_the_sample() -> None:
    rng = np.random.default_rng(1)
    interval = clustered_interval(rng.binomial(8, 0.5, 2000) / 8)
    low, high = wilson(interval.mean, 16000)
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.1)


def test_a_variance_that_hangs_on_one_prompt_is_not_trusted() -> None:
    values = [0.125] + [0.0] * 63
    interval = clustered_interval(values, num_completions=512)
    assert interval.high == pytest.approx(wilson(1 / 512, 64)[1], rel=0.5)
    assert interval.high > 2 * wilson(1 / 512, 512)[1]


@pytest.mark.parametrize(
    ("freedom", "probability", "quantile"),
    [
        (3, 0.975, 3.18245),
        (5, 0.975, 2.57058),
        (10, 0.975, 2.22814),
        (30, 0.975, 2.04227),
        (127, 0.975, 1.97882),
        (10, 0.95, 1.81246),
        (10, 0.995, 3.16927),
        (1e9, 0.975, 1.95996),
    ],
)
def test_student_quantile_agrees_with_the_tables(
    freedom: float, probability: float, quantile: float
) -> None:
    z = NormalDist().inv_cdf(probability)
    got = math.sqrt(_student_quantile_squared(z, freedom))
    assert got == pytest.approx(quantile, rel=0.012)
    assert got >= quantile * 0.9999


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.30265)])
def test_student_quantile_errs_on_the_safe_side_where_it_errs(
    freedom: float, quantile: float
) -> None:
    got = math.sqrt(_student_quantile_squared(NormalDist().inv_cdf(0.975), freedom))
    assert quantile <= got <= 1.4 * quantile


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ([], {}, r"must be \[P\] with P >= 1, got \[0\]"),
        ([[0.5]], {}, r"got \[1, 1\]"),
        ([0.5, 1.5], {}, r"must be in \[0, 1\], got 1.5 at prompt 1"),
        ([0.5, -0.1], {}, "got -0.1 at prompt 1"),
        ([math.nan], {}, "got nan at prompt 0"),
        ([0.5], {"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ([0.5], {"confidence": 95}, "got 95"),
        ([0.5, 0.5], {"num_completions": 1}, "num_completions must be >= 2"),
    ],
)
def test_wrong_input_is_refused(
    values: list[float], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        clustered_interval(values, **settings)
