"""From raw scores of a reward model to scores in [0, 1]."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError, DataError, VerifierError
from grpo_core.validation import build
from grpo_verifiers.learned.calibration import Calibration, calibrated, fit_platt, sigmoid

finite = st.floats(-1e6, 1e6)


@given(st.floats(-1e9, 1e9))
def test_sigmoid_is_the_logistic_function(value: float) -> None:
    assert 0.0 <= sigmoid(value) <= 1.0
    assert sigmoid(value) + sigmoid(-value) == pytest.approx(1.0)
    if abs(value) < 30:
        assert sigmoid(value) == pytest.approx(1 / (1 + math.exp(-value)))


@given(finite, finite, st.sampled_from(["auto", "sigmoid", "linear"]))
def test_a_better_raw_score_is_never_a_worse_score(one: float, two: float, kind: str) -> None:
    calibration = Calibration(kind=kind, scale=0.3, shift=-1.0, low=-20, high=50)
    low, high = (calibrated([raw], 0, calibration) for raw in sorted((one, two)))
    assert 0.0 <= low.score <= high.score <= 1.0
    assert (low.raw, high.raw) == (min(one, two), max(one, two))


@pytest.mark.parametrize(
    ("raw", "score", "is_clamped"),
    [(-3.0, 0.0, True), (-2.0, 0.0, False), (0.0, 0.25, False), (6.0, 1.0, False), (7, 1.0, True)],
)
def test_linear_says_what_it_cuts_off(raw: float, score: float, is_clamped: bool) -> None:
    scored = calibrated([raw], 0, Calibration(kind="linear", low=-2, high=6))
    assert scored == (raw, score, is_clamped)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.data())
def test_probabilities_are_those_of_softmax(logits: list[float], data: st.DataObject) -> None:
    label = data.draw(st.integers(0, len(logits) - 1))
    scored = calibrated(logits, label, Calibration())
    expected = math.exp(logits[label]) / sum(math.exp(logit) for logit in logits)
    assert scored.raw == scored.score == pytest.approx(expected)


def test_auto_goes_by_the_number_of_outputs() -> None:
    assert calibrated([2.0], 0, Calibration()).score == pytest.approx(sigmoid(2.0))
    assert calibrated([0.0, 2.0], 1, Calibration()).score == pytest.approx(sigmoid(2.0))
    logit = calibrated([1.0, 2.0], 1, Calibration(kind="sigmoid"))
    assert logit == (2.0, pytest.approx(sigmoid(2.0)), False)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_score(broken: float) -> None:
    for logits in ([broken], [0.0, broken]):
        with pytest.raises(VerifierError, match="no number"):
            calibrated(logits, 0, Calibration())


def test_one_class_has_no_probability() -> None:
    with pytest.raises(VerifierError, match="one class"):
        calibrated([1.0], 0, Calibration(kind="probability"))


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match="low must be below high"):
        build(Calibration, {"kind": "linear", "low": 1, "high": 1})


# ---- Platt ---------------------------------------------------------------------------------------


def labelled(scale: float, shift: float, count: int, seed: int) -> tuple[list[float], list[bool]]:
    draw = random.Random(seed)
    raw = [draw.gauss(3.0, 5.0) for _ in range(count)]
    return raw, [draw.random() < sigmoid(scale * x + shift) for x in raw]


def test_fit_platt_finds_the_sigmoid_that_made_the_labels() -> None:
    scale, shift = fit_platt(*labelled(0.7, -1.5, 20_000, seed=1))
    assert scale == pytest.approx(0.7, abs=0.03)
    assert shift == pytest.approx(-1.5, abs=0.1)


@given(st.integers(0, 2**32 - 1), st.integers(10, 80))
def test_fit_platt_is_at_the_maximum_of_the_smoothed_likelihood(seed: int, count: int) -> None:
    raw, labels = labelled(0.4, 0.2, count, seed)
    if len(set(labels)) < 2:
        return
    scale, shift = fit_platt(raw, labels)
    good = sum(labels)
    targets = [(good + 1) / (good + 2) if y else 1 / (count - good + 2) for y in labels]
    gaps = [sigmoid(scale * x + shift) - t for x, t in zip(raw, targets, strict=True)]
    assert sum(gaps) == pytest.approx(0, abs=1e-5)
    assert sum(g * x for g, x in zip(gaps, raw, strict=True)) == pytest.approx(0, abs=1e-3)


def test_scores_that_separate_the_labels_have_a_finite_scale() -> None:
    scale, shift = fit_platt([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert 0 < scale < 10
    assert shift == pytest.approx(0, abs=1e-6)


@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_fit_platt_follows_another_unit_and_zero(unit: float, zero: float) -> None:
    raw, labels = labelled(0.5, 0.0, 60, seed=3)
    scale, shift = fit_platt(raw, labels)
    moved = fit_platt([unit * x + zero for x in raw], labels)
    for x in (-5.0, 0.0, 5.0):
        there = moved.scale * (unit * x + zero) + moved.shift
        assert there == pytest.approx(scale * x + shift, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("raw", "labels", "what"),
    [
        ([1.0], [True, False], "1 scores and 2 labels"),
        ([1.0, math.nan], [True, False], "finite"),
        ([1.0, 2.0], [True, True], "both kinds"),
        ([1.0, 1.0], [True, False], "different scores"),
    ],
)
def test_data_that_tells_nothing_is_refused(
    raw: list[float], labels: list[bool], what: str
) -> None:
    with pytest.raises(DataError, match=what):
        fit_platt(raw, labels)
