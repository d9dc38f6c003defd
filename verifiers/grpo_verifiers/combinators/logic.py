"""What several verdicts say together: Kleene's logic of true, false, and not known.

correct is true; wrong and unparseable are false; abstain, timeout and error are not known. A
completion is never held responsible for what is not known: `wrong or not known` is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from grpo_core.types import Status, Verdict

ScoreRule = Literal["min", "max", "product", "mean"]
Join = Callable[[Sequence[Status]], Status]

_UNKNOWN = (Status.ERROR, Status.TIMEOUT, Status.ABSTAIN)  # the worst first
_FALSE = (Status.WRONG, Status.UNPARSEABLE)


def conjunction(statuses: Sequence[Status]) -> Status:
    """Correct if all are; false, as the first false one is, if any is; else not known."""
    false = next((status for status in statuses if status in _FALSE), None)
    return false or _worst(statuses, _UNKNOWN) or Status.CORRECT


def disjunction(statuses: Sequence[Status]) -> Status:
    """Correct if one is; not known if one is that; else wrong, or unparseable if all are."""
    return _worst(statuses, (Status.CORRECT, *_UNKNOWN, *_FALSE)) or Status.ERROR


def undecided(statuses: Sequence[Status]) -> Status:
    """What verdicts that decide nothing leave: an error hides behind no weaker one."""
    return _worst(statuses, (Status.ERROR, Status.TIMEOUT, *_FALSE, Status.ABSTAIN)) or Status.ERROR


def joint_score(
    verdicts: Sequence[Verdict], weights: Sequence[float], rule: ScoreRule
) -> float | None:
    """The score of several verdicts; those without one are left out.

    Args:
        verdicts: in any order.
        weights: one a verdict, for the mean.
        rule: how scores are joined.
    """
    scored = [(v.score, w) for v, w in zip(verdicts, weights, strict=True) if v.score is not None]
    if not scored:
        return None
    scores = [score for score, _ in scored]
    if rule == "mean":
        total = math.fsum(weight for _, weight in scored)
        return min(1.0, math.fsum(score * weight for score, weight in scored) / total)
    if rule == "product":
        return math.prod(scores)
    return min(scores) if rule == "min" else max(scores)


def is_settled(verdicts: Sequence[Verdict], join: Join, rule: ScoreRule) -> bool:
    """Whether no further verdict can change what these say together, status and score."""
    if not verdicts:
        return False
    status = join([verdict.status for verdict in verdicts])
    dominant = (Status.CORRECT,) if join is disjunction else _FALSE
    if status not in dominant:
        return False
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    if rule == "mean":
        return False
    return max(scores) == 1.0 if rule == "max" else min(scores) == 0.0


def _worst(statuses: Sequence[Status], order: Sequence[Status]) -> Status | None:
    return next((status for status in order if status in statuses), None)
