"""Alarms about a run's numbers: what it has recorded so far, judged after each step.

An alarm is a pure function of the lines of metrics.jsonl up to its step, so a resumed run sees
what the uninterrupted one saw. It is raised where the condition of its rule begins, that is where
it holds and did not in the steps just before.

Left out: what stops a run by itself (a loss that is no number, too many failing verifiers, stale
weights in the sampler).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from grpo_core.training.health_rules import RULES, Line, number

# Steps a condition must have been absent before it counts as new. Conditions that waver about their
# bound are one alarm; explosions are events, and each is one.
_QUIET = 50
_QUIET_EVENTS = {"gradient_explosion": 5}


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that began to go wrong.

    Attributes:
        name: which rule.
        step: of the line that set it off.
        value, threshold: what was measured, and the bound it crossed.
        message: for people, with a cure.
    """

    name: str
    step: int
    value: float
    threshold: float
    message: str


def alarms(history: Sequence[Line]) -> list[Alarm]:
    """The alarms that begin at the newest line.

    Args:
        history: lines of metrics.jsonl, in order of step. A value that is missing, None, NaN, or
            infinite counts as not measured.
    """
    if not history:
        return []
    step = int(number(history[-1].get("step")) or len(history))
    found = []
    for name, rule in RULES.items():
        finding = rule(history)
        first = max(len(history) - _QUIET_EVENTS.get(name, _QUIET), 1)
        if finding and not any(rule(history[:end]) for end in range(first, len(history))):
            found.append(Alarm(name, step, finding.value, finding.threshold, finding.message))
    return found


def count_alarms(raised: Sequence[Line]) -> dict[str, int]:
    """How often each alarm was raised, from the lines of alarms.jsonl; for summary.json."""
    return dict(Counter(str(line.get("name")) for line in raised))
