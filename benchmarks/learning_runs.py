"""Runs of `learning.py`, read back, and what is computed from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

# Student's quantile at 97.5 % by degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its settings, and a row for every step and evaluation it came to."""

    settings: dict[str, Any]
    steps: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]]

    @property
    def label(self) -> str:
        """Whose it is, and the precision of our side."""
        side, dtype = self.settings["side"], self.settings["dtype"]
        return "TRL" if side == "trl" else f"ours, {dtype}"

    @property
    def seed(self) -> int:
        """Of prompts and completions."""
        return int(self.settings["seed"])

    def rewards(self) -> list[float]:
        """Mean training reward of each step."""
        return [fmean(_known(row["prompt_rewards"])) for row in self.steps]

    def reached(self, target: float) -> dict[str, Any] | None:
        """The first evaluation that reaches a pass@1."""
        return next((row for row in self.evaluations if row["pass_at_1"] >= target), None)

    def durations(self, clock: str) -> list[float]:
        """What each step took by "seconds" or "cpu_seconds"."""
        ends = [0.0, *(row[clock] for row in self.steps)]
        return [end - start for start, end in pairwise(ends)]


class Estimate(NamedTuple):
    """A mean and the half width of its 95% interval; infinite for a single value."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        width = f"{self.half_width:.3f}" if math.isfinite(self.half_width) else "?"
        return f"{self.mean:+.3f} ± {width}"


def read_run(folder: Path) -> Run:
    """The run of a folder, finished or not."""
    settings = json.loads((folder / "settings.json").read_text())
    return Run(settings, _rows(folder / "steps.jsonl"), _rows(folder / "evaluations.jsonl"))


def over_runs(values: Sequence[float]) -> Estimate:
    """Mean and interval for another run like these; Student's, for there are few."""
    if len(values) < 2:
        return Estimate(fmean(values), math.inf)
    quantile = _STUDENT[len(values) - 2] if len(values) - 2 < len(_STUDENT) else 2.2
    return Estimate(fmean(values), quantile * stdev(values) / math.sqrt(len(values)))


def reward_difference(one: Run, other: Run) -> Estimate:
    """Training reward of `one` minus that of `other`, on average over the steps both have.

    Paired by prompt. The interval is for other completions of the same policies, not for another
    run: where one policy gets ahead by luck it stays ahead for a while.
    """
    pairs = [
        (mine, theirs)
        for row, against in zip(one.steps, other.steps, strict=False)
        for mine, theirs in zip(row["prompt_rewards"], against["prompt_rewards"], strict=True)
        if mine is not None and theirs is not None
    ]
    differences = [mine - theirs for mine, theirs in pairs]
    return Estimate(fmean(differences), 1.96 * stdev(differences) / math.sqrt(len(differences)))


def held_out_difference(one: Run, other: Run) -> float:
    """pass@1 of `one` minus that of `other`, on average over the evaluations both have."""
    theirs = {row["step"]: row["pass_at_1"] for row in other.evaluations}
    common = [row for row in one.evaluations if row["step"] and row["step"] in theirs]
    return fmean(row["pass_at_1"] - theirs[row["step"]] for row in common)


def common_steps(one: Run, other: Run) -> int:
    """How many steps both came to."""
    return min(len(one.steps), len(other.steps))


def seconds_a_step(quiet: Run) -> tuple[float, float, float]:
    """Median, least and most wall seconds of a step; the first, which warms up, is left out."""
    durations = quiet.durations("seconds")[1:] or quiet.durations("seconds")
    return median(durations), min(durations), max(durations)


def seconds_until(run: Run, step: int, quiet: Run) -> float:
    """Wall seconds up to `step`, had the machine been quiet.

    Those of the quiet run, times the CPU time of the run's steps over that of those of its steps
    that the quiet run has, too: steps grow cheaper as completions shorten.
    """
    span = min(len(quiet.steps), step)
    return float(
        quiet.steps[span - 1]["seconds"]
        * run.steps[step - 1]["cpu_seconds"]
        / run.steps[span - 1]["cpu_seconds"]
    )


def check_same_recipe(runs: Sequence[Run], also_free: Sequence[str] = ()) -> None:
    """Refuse to compare runs that differ in more than side, seed, precision, and length.

    Args:
        runs: to be compared.
        also_free: further settings in which they may differ.

    Raises:
        SystemExit: naming the settings.
    """
    flat = [_flat(run.settings["config"]) for run in runs]
    free = {"seed", "trainer.dtype", "evaluation.every", *also_free}
    if all(settings["trainer.schedule"] == "constant" for settings in flat):
        free.add("trainer.steps")
    names = {name for settings in flat for name in settings} - free
    differing = [name for name in sorted(names) if len({str(s.get(name)) for s in flat}) > 1]
    if differing:
        raise SystemExit(f"the runs have different recipes: {', '.join(differing)}. Compare alike.")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
