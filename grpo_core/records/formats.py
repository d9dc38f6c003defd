"""How numbers are written for people; every function takes anything and never raises."""

from __future__ import annotations

import math
from collections.abc import Mapping

from grpo_core.types import Json

MISSING = "–"
_LARGEST = 1e15  # beyond it a chart's arithmetic would overflow


def number(value: Json) -> float | None:
    """`value` as a finite float; None when it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < _LARGEST else None


def percent(value: Json) -> str:
    """0.1234 as 12.3%."""
    found = number(value)
    return MISSING if found is None else f"{found * 100:.1f}%"


def axis_percent(value: Json) -> str:
    """0.5 as 50%, 0.125 as 12.5%."""
    return percent(value).replace(".0%", "%")


def compact(value: Json) -> str:
    """About three digits: 0.0312, 1.25, 214."""
    found = number(value)
    if found is None:
        return MISSING
    if abs(found) >= 10_000:
        return f"{found:,.0f}"
    return f"{found:.3g}" if abs(found) < 100 else f"{found:.0f}"


def count(value: Json) -> str:
    """12345 as 12,345."""
    found = number(value)
    return MISSING if found is None else f"{found:,.0f}"


def duration(value: Json) -> str:
    """581 as 9 min 41 s."""
    found = number(value)
    if found is None or found < 0:
        return MISSING
    if found < 10:
        return f"{found:.1f} s"
    minutes, seconds = divmod(round(found), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def interval(estimate: Json) -> str:
    """The ends of {"mean", "low", "high"}; empty when there are none."""
    if not isinstance(estimate, Mapping):
        return ""
    low, high = number(estimate.get("low")), number(estimate.get("high"))
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def mean(estimate: Json) -> float | None:
    """The mean of {"mean", "low", "high"}, or the number itself."""
    return number(estimate.get("mean") if isinstance(estimate, Mapping) else estimate)


def submap(values: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    """The mapping stored under `key`; empty when there is none."""
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}
