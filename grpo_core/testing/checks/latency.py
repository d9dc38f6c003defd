"""How long single calls take, and whether each ends in time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from grpo_core.testing.answers import show_sample
from grpo_core.testing.bench import Bench, CheckFailed
from grpo_core.testing.survey import Entry
from grpo_core.types import Json

_SHOWN = 3  # inputs that failed


def check_latency(bench: Bench) -> Mapping[str, Json]:
    """Each example and odd text by itself, in a pool that kills at the verifier's own deadline.

    A hang that the candidate answers for (`candidate_bears_limits`) is none of the verifier's.
    """
    survey = bench.survey
    bad = survey.of("hung", "crashed")
    evidence = _milliseconds([entry.seconds for entry in survey.entries])
    evidence["limited"] = len(survey.of("limited"))
    if bad:
        shown = [f"{show_sample(e.sample)} {e.fate}: {e.message:.300}" for e in bad[:_SHOWN]]
        raise CheckFailed(f"{_count(bad)}: {shown[0]}", failed=shown, **evidence)
    return evidence


def _count(bad: Sequence[Entry]) -> str:
    parts = [
        f"{number} of {what}"
        for what, is_example in (("the examples", True), ("the odd texts", False))
        if (number := sum(entry.is_example == is_example for entry in bad))
    ]
    return f"{' and '.join(parts)} got no answer in time"


def _milliseconds(seconds: Sequence[float]) -> dict[str, Json]:
    """Quantiles, the nearest rank."""
    ranked = sorted(seconds)
    at = {"p50_ms": 0.50, "p99_ms": 0.99, "p100_ms": 1.00}
    found = {name: ranked[max(math.ceil(q * len(ranked)) - 1, 0)] for name, q in at.items()}
    return {"calls": len(ranked), **{name: round(1e3 * s, 3) for name, s in found.items()}}
