"""What is known about a run while it goes on, gathered from the hooks; no drawing here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_core.records.formats import number, submap
from grpo_core.types import Prompt, Rollout, RolloutGroup

_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 10  # steps the ETA rests on


@dataclass(slots=True)
class Progress:
    """The state of a run as far as hooks told it.

    Attributes:
        steps: how many the run is to take; 0 while unknown.
        phase, done, total: what goes on now, and how far it is.
        metrics: the line of each step so far.
        evaluations: results so far.
        alarms: (step, name) of each so far.
        sample: one completion of the last step, with its prompt.
        phase_started: by the monotonic clock.
    """

    directory: str = ""
    model: str = ""
    task: str = ""
    steps: int = 0
    phase: str = "start"
    done: int = 0
    total: int = 0
    metrics: list[Mapping[str, float]] = field(default_factory=list)
    evaluations: list[Mapping[str, Any]] = field(default_factory=list)
    alarms: list[tuple[int, str]] = field(default_factory=list)
    sample: tuple[Prompt, Rollout] | None = None
    phase_started: float = field(default_factory=time.monotonic)

    def start(self, directory: str, config: Mapping[str, Any]) -> None:
        """The run begins."""
        self.directory = directory
        self.model = str(submap(config, "model").get("path", ""))
        self.task = str(submap(config, "task").get("name", ""))
        self.steps = int(number(submap(config, "trainer").get("steps")) or 0)

    def enter(self, phase: str, done: int, total: int) -> None:
        """A phase goes on."""
        if phase != self.phase:
            self.phase_started = time.monotonic()
        self.phase, self.done, self.total = phase, done, total

    def choose_sample(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Pick one completion to show: another place each step, so that none is favoured."""
        groups = [group for group in groups if group.rollouts]
        if groups:
            group = groups[step % len(groups)]
            self.sample = group.prompt, group.rollouts[step % len(group.rollouts)]

    @property
    def step(self) -> int:
        """Steps finished."""
        return int(number(self.metrics[-1].get("step")) or 0) if self.metrics else 0

    @property
    def seconds_left(self) -> float | None:
        """From the last steps' mean, evaluations left out; None before the first step."""
        recent = self.values("seconds")[-_RECENT:]
        if not recent or not self.steps:
            return None
        return max(0, self.steps - self.step) * sum(recent) / len(recent)

    def last(self, key: str) -> float | None:
        """A metric of the last step."""
        return number(self.metrics[-1].get(key)) if self.metrics else None

    def values(self, key: str) -> list[float]:
        """A metric over all steps that have it."""
        lines = list(self.metrics)  # the display reads from another thread
        return [value for line in lines if (value := number(line.get(key))) is not None]


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The last values as bars, scaled between their least and greatest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if high <= low:
        return _BARS[0] * len(shown)
    scale = (len(_BARS) - 1) / (high - low)
    return "".join(_BARS[round((value - low) * scale)] for value in shown)
