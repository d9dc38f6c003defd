"""Every labelled pair of tests/data/math_pairs.jsonl, through `MathVerifier.verify`.

Labels come from mathematics and from the documented options, never from what the verifier says.
The failure message lists each pair that is judged wrongly, with the reason for its label.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grpo_core.types import Sample, Verdict
from grpo_verifiers.math import MathVerifier

DATA = Path(__file__).parents[1] / "data" / "math_pairs.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
CATEGORIES = sorted({row["category"] for row in ROWS})
SHOWN_CHARS = 150


def judge(row: dict[str, Any]) -> Verdict:
    verifier = MathVerifier(MathVerifier.Config(**row.get("options", {})))
    [verdict] = verifier.verify([Sample("", row["completion"], row["reference"])])
    return verdict


def describe(row: dict[str, Any], verdict: Verdict) -> str:
    wanted = "correct" if row["expected"] else "not correct"
    options = f" {row['options']}" if "options" in row else ""
    return (
        f"{row['id']}{options}: {row['completion'][-SHOWN_CHARS:]!r} for {row['reference']!r} "
        f"must be {wanted} ({row['reason']}), got {verdict.status}: {verdict.reason[:SHOWN_CHARS]}"
    )


@pytest.mark.parametrize("category", CATEGORIES)
def test_pairs_are_judged_as_labelled(category: str) -> None:
    rows = [row for row in ROWS if row["category"] == category]
    verdicts = [(row, judge(row)) for row in rows]
    allowed = {True: ("correct",), False: ("wrong", "unparseable")}  # never the verifier's fault
    wrong = [pair for pair in verdicts if pair[1].status not in allowed[pair[0]["expected"]]]
    listing = "\n".join(describe(row, verdict) for row, verdict in wrong)
    assert not wrong, f"{len(wrong)} of {len(rows)} pairs:\n{listing}"


def test_every_reference_is_readable() -> None:
    verifier = MathVerifier()
    for reference in {repr(row["reference"]): row["reference"] for row in ROWS}.values():
        verifier.check_reference(reference)


def test_the_set_is_what_it_claims_to_be() -> None:
    assert len(ROWS) >= 450
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    keys = Counter(
        (repr(row["reference"]), row["completion"], repr(row.get("options"))) for row in ROWS
    )
    assert max(keys.values()) == 1
    assert all(row["reason"] and isinstance(row["expected"], bool) for row in ROWS)
    accepted = sum(row["expected"] for row in ROWS)
    assert 0.35 < accepted / len(ROWS) < 0.65  # neither yes nor no to everything comes far
