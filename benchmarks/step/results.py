"""Medians, spreads and ratios of recorded steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from step.probe import StepRecord
from step.roofline import PHASES, Bound, Machine, Weights, Work, bounds

Runs = Sequence[Sequence[StepRecord]]
"""The steps of one side, repeat by repeat; the first step of each is the warm-up."""

_NOISY_CANARY = 1.25  # times the best one of all sides
_NOISY_FOREIGN = 0.15  # of a processor


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio taken in each repeat: median, least, and most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True, slots=True)
class Summary:
    """One side over all timed steps of all repeats; medians, unless said otherwise.

    Attributes:
        seconds, fastest, slowest: of a step. warm_up: of a first step.
        phases: seconds; "rest" is what no phase accounts for.
        useful_sample, useful_train: share of the positions computed that are a prompt's or a
            completion's own, each prompt once; None where positions were not seen.
        peak_mb: the most of all repeats. workers_mb: of child processes.
        noisy: how many of the `steps` were disturbed.
    """

    steps: int
    seconds: float
    fastest: float
    slowest: float
    warm_up: float
    phases: dict[str, float]
    completion_tokens: float
    prompt_tokens: float
    longest: float
    trained_tokens: float
    trained_prompt_tokens: float
    tokens_per_second: float
    useful_sample: float | None
    useful_train: float | None
    peak_mb: float
    workers_mb: float
    noisy: int


def summarise(runs: Runs, best_canary: float) -> Summary:
    """See `Summary`."""
    timed = [record for run in runs for record in run[1:]]
    names = {name: None for record in timed for name in record.phases}
    phases = {name: median(r.phases.get(name, 0.0) for r in timed) for name in names}
    phases["rest"] = median(r.seconds - sum(r.phases.values()) for r in timed)

    def middle(read: Any) -> float:
        return float(median(map(read, timed)))

    return Summary(
        steps=len(timed),
        seconds=middle(lambda r: r.seconds),
        fastest=min(r.seconds for r in timed),
        slowest=max(r.seconds for r in timed),
        warm_up=median(run[0].seconds for run in runs),
        phases=phases,
        completion_tokens=middle(lambda r: r.completion_tokens),
        prompt_tokens=middle(lambda r: r.prompt_tokens),
        longest=middle(lambda r: r.longest),
        trained_tokens=middle(lambda r: r.trained_tokens),
        trained_prompt_tokens=middle(trained_prompt_tokens),
        tokens_per_second=middle(lambda r: r.completion_tokens / r.seconds),
        useful_sample=_useful(timed, "sample"),
        useful_train=_useful(timed, "train"),
        peak_mb=max(r.peak_mb for run in runs for r in run),
        workers_mb=middle(lambda r: r.workers_mb),
        noisy=sum(is_noisy(r, best_canary) for r in timed),
    )


def is_noisy(record: StepRecord, best_canary: float) -> bool:
    """Whether something else ran beside this step."""
    slow = max(record.canary_ms) > _NOISY_CANARY * best_canary
    return slow or record.foreign > _NOISY_FOREIGN


def best_canary(everything: Mapping[str, Runs]) -> float:
    """The fastest canary of all sides."""
    return min(min(r.canary_ms) for runs in everything.values() for run in runs for r in run)


def trained_prompt_tokens(record: StepRecord) -> float:
    """Tokens of the prompts that are part of the backward pass, each prompt once."""
    return float(record.extra.get("trained_prompts", record.prompt_tokens))


def step_ratio(theirs: Runs, ours: Runs) -> Ratio:
    """Their seconds a step over ours, from the medians of each repeat."""
    ratios = [
        median(r.seconds for r in one[1:]) / median(r.seconds for r in other[1:])
        for one, other in zip(theirs, ours, strict=True)
    ]
    return Ratio(median(ratios), min(ratios), max(ratios))


def step_bounds(summary: Summary, machine: Machine, weights: Weights) -> dict[str, Bound]:
    """What the work of a side's median step takes at least, by phase."""
    work = Work(
        summary.completion_tokens,
        summary.prompt_tokens,
        summary.longest,
        summary.trained_tokens,
        summary.trained_prompt_tokens,
    )
    return bounds(machine, weights, work)


def measured_phases(summary: Summary) -> dict[str, float]:
    """Seconds of the phases that have a bound, whatever a side calls its parts."""
    found = dict.fromkeys(PHASES, 0.0) | {
        name: seconds for name, seconds in summary.phases.items() if name in PHASES
    }
    for part in ("forward", "backward", "train"):
        found["forward_backward"] += summary.phases.get(part, 0.0)
    return found


def machine_of(limits: Sequence[Mapping[str, Any]]) -> Machine:
    """The best that was seen in any repeat: a limit is what is possible."""
    return Machine(
        tflops=max(value for found in limits for value in found["gemm"].values()),
        gbs=max(value for found in limits for value in found["memory"].values()),
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """Plain values."""
    return asdict(summary)


def _useful(records: Sequence[StepRecord], phase: str) -> float | None:
    needed, computed = 0.0, 0
    for record in records:
        computed += record.positions[phase]
        if phase == "sample":
            needed += record.completion_tokens + record.prompt_tokens
        else:
            needed += (record.trained_tokens or 0) + trained_prompt_tokens(record)
    return needed / computed if computed >= needed > 0 else None
