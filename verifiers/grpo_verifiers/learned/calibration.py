"""From what a reward model says to a score in [0, 1].

    sigmoid      1 / (1 + exp(-(scale * raw + shift)))        raw: the logit of the label
    linear       (raw - low) / (high - low), cut off at 0 and 1
    probability  softmax(logits)[label]                       for heads of two classes or more

A Bradley-Terry reward has no zero and no unit: only differences between answers to one prompt mean
something. The sigmoid of it is the probability of beating an answer of reward 0, whatever that is,
until scale and shift are fitted to labelled answers: `fit_platt`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo_core.errors import DataError, VerifierError

_MAX_ITERATIONS = 100
_MIN_GRADIENT = 1e-10


class Calibration(BaseModel):
    """How raw scores become scores."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["auto", "sigmoid", "linear", "probability"] = Field(
        default="auto", description="auto: sigmoid for heads of one number, else probability"
    )
    label: int | str | None = Field(
        default=None,
        description="The class whose score counts, by number or name. None: the only one, or the "
        "second of two.",
    )
    scale: float = Field(default=1.0, description="of sigmoid; see fit_platt")
    shift: float = Field(default=0.0, description="of sigmoid")
    low: float = Field(default=0.0, description="of linear: the raw score that becomes 0")
    high: float = Field(default=1.0, description="of linear: the raw score that becomes 1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}.")
        return self


class Scored(NamedTuple):
    """A calibrated score.

    Attributes:
        raw: what the model said: a logit, or a probability for kind "probability".
        score: in [0, 1].
        is_clamped: raw was outside of [low, high] of a linear calibration.
    """

    raw: float
    score: float
    is_clamped: bool = False


def calibrated(logits: Sequence[float], label: int, calibration: Calibration) -> Scored:
    """The score of one row of a head's outputs.

    Args:
        logits: one number for each class.
        label: the class whose score is wanted.
        calibration: its kind "auto" depends on the number of classes.

    Raises:
        VerifierError: if an output is no finite number, or a probability is asked of one class.
    """
    if not all(map(math.isfinite, logits)):
        raise VerifierError(
            f"the model's output is {list(logits)[:8]}, which is no number. Its weights are "
            "damaged, or dtype is too narrow for it: try 'float32'."
        )
    kind = calibration.kind
    if kind == "auto":
        kind = "sigmoid" if len(logits) == 1 else "probability"
    if kind == "probability":
        raw = _softmax(logits, label)
        return Scored(raw, raw)
    raw = logits[label]
    if kind == "sigmoid":
        return Scored(raw, sigmoid(calibration.scale * raw + calibration.shift))
    score = (raw - calibration.low) / (calibration.high - calibration.low)
    return Scored(raw, min(1.0, max(0.0, score)), is_clamped=not 0.0 <= score <= 1.0)


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), for values of any size."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def _softmax(logits: Sequence[float], label: int) -> float:
    if len(logits) == 1:
        raise VerifierError(
            "the model has one output, and one class has no probability. Set calibration.kind to "
            "'sigmoid' or 'linear'."
        )
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    return powers[label] / math.fsum(powers)


class Platt(NamedTuple):
    """Scale and shift for a sigmoid calibration."""

    scale: float
    shift: float


def fit_platt(raw: Sequence[float], labels: Sequence[bool]) -> Platt:
    """The sigmoid that fits labelled raw scores best (Platt scaling).

    Maximises the likelihood of the labels by Newton's method, with Platt's smoothed targets in
    place of 0 and 1, so that scores which separate the labels perfectly have a finite scale, too.
    Use a few hundred completions that were not used to train the reward model, with labels from
    people or from a verifier that is right.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines"; Lin, Lin & Weng 2007,
    "A Note on Platt's Probabilistic Outputs", for the line search.

    Args:
        raw: raw scores, as in a verdict's details.
        labels: whether each completion was good.

    Raises:
        DataError: if there is not one label a score, a score is not finite, or only one kind of
            label or one single score occurs.
    """
    _check_pairs(raw, labels)
    # In units of their own spread, whatever the model's.
    centre = math.fsum(raw) / len(raw)
    spread = math.sqrt(math.fsum((x - centre) ** 2 for x in raw) / len(raw))
    unit = [(x - centre) / spread for x in raw]
    good = sum(map(bool, labels))
    bad = len(labels) - good
    targets = [(good + 1) / (good + 2) if label else 1 / (bad + 2) for label in labels]
    slope, offset = _newton(unit, targets, math.log((good + 1) / (bad + 1)))
    return Platt(slope / spread, offset - slope * centre / spread)


def _newton(unit: Sequence[float], targets: Sequence[float], start: float) -> tuple[float, float]:
    slope, offset = 0.0, start
    loss = _loss(unit, targets, slope, offset)
    for _ in range(_MAX_ITERATIONS):
        odds = [sigmoid(slope * x + offset) for x in unit]
        gaps = [p - t for p, t in zip(odds, targets, strict=True)]
        to_slope = math.fsum(gap * x for gap, x in zip(gaps, unit, strict=True))
        to_offset = math.fsum(gaps)
        if abs(to_slope) + abs(to_offset) < _MIN_GRADIENT * len(unit):
            break
        weights = [p * (1 - p) for p in odds]
        a = math.fsum(w * x * x for w, x in zip(weights, unit, strict=True)) + 1e-12
        b = math.fsum(w * x for w, x in zip(weights, unit, strict=True))
        c = math.fsum(weights) + 1e-12
        det = a * c - b * b
        step = (c * to_slope - b * to_offset) / det, (a * to_offset - b * to_slope) / det
        size = 1.0
        while size > 1e-10:
            tried = slope - size * step[0], offset - size * step[1]
            if (new := _loss(unit, targets, *tried)) <= loss:
                (slope, offset), loss = tried, new
                break
            size /= 2
        else:
            break
    return slope, offset


def _loss(unit: Sequence[float], targets: Sequence[float], slope: float, offset: float) -> float:
    """Cross entropy: log(1 + exp(z)) - t z, written so that it overflows nowhere."""
    values = [slope * x + offset for x in unit]
    return math.fsum(
        max(z, 0.0) + math.log1p(math.exp(-abs(z))) - t * z
        for z, t in zip(values, targets, strict=True)
    )


def _check_pairs(raw: Sequence[float], labels: Sequence[bool]) -> None:
    if len(raw) != len(labels):
        raise DataError(f"got {len(raw)} scores and {len(labels)} labels: each score needs one.")
    if not all(map(math.isfinite, raw)):
        raise DataError("a score is no finite number. Leave it out.")
    if len(set(map(bool, labels))) < 2 or len(set(raw)) < 2:
        raise DataError(
            f"{len(raw)} scores with {sum(map(bool, labels))} good labels tell nothing: both kinds "
            "of labels, and different scores, are needed."
        )
