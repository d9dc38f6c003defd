"""Agreement with labelled data that lies beside the repository, where it does.

GRPO_SHARED names the folder; it defaults to `../shared`. Without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from grpo_core.types import Sample
from grpo_verifiers.math import MathVerifier

SHARED = Path(os.environ.get("GRPO_SHARED", Path(__file__).parents[2].parent / "shared"))
STRIDE = 10  # the fast tests take every tenth row

pytestmark = pytest.mark.skipif(
    not (SHARED / "math_pairs.jsonl").is_file(),
    reason=f"no shared data at {SHARED}; set GRPO_SHARED to the folder that has it",
)
every_row = pytest.mark.parametrize(
    "stride", [STRIDE, pytest.param(1, marks=pytest.mark.slow)], ids=["sample", "all"]
)


def rows(name: str, stride: int = 1) -> list[dict[str, Any]]:
    lines = (SHARED / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[::stride]]


@every_row
def test_labelled_gsm8k_solutions(stride: int) -> None:
    verifier = MathVerifier()
    for row in rows("data/gsm8k_labelled_solutions.jsonl", stride):
        for solution in row["solutions"]:
            sample = Sample(row["question"], solution["solution"], row["answer"])
            [verdict] = verifier.verify([sample])
            assert verdict.is_correct == solution["is_correct"], (sample, verdict)


@every_row
@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "asdiv.jsonl"])
def test_references_are_read_and_accepted(name: str, stride: int) -> None:
    verifier = MathVerifier()
    for row in rows(f"data/{name}", stride):
        reference = row["answer"]
        verifier.check_reference(reference)
        answer = reference.rpartition("####")[2].strip()
        completions = (reference, f"So the answer is {answer}.", rf"\boxed{{{answer}}}")
        samples = [Sample(row["question"], text, reference) for text in completions]
        assert all(verdict.is_correct for verdict in verifier.verify(samples)), reference


# Pairs without a label are policy: what the defaults say, and options that say the opposite.
POLICY: dict[str, tuple[bool, dict[str, Any]]] = {
    "frac-5": (False, {"tolerance": 1e-9}),
    "percent-2": (True, {"percent": "unit"}),
    "degree-3": (False, {"degrees": "angle"}),
    "set-2": (True, {"order": "lists"}),
    "base-3": (True, {"base": "required"}),
    "extract-5": (True, {"require_boxed": True}),
    "extract-7": (True, {"require_boxed": True}),
    "bomb-uni": (True, {}),  # a full-width 7 is a 7 under every option
}


def test_policy_is_an_option() -> None:
    unlabelled = [row for row in rows("math_pairs.jsonl") if row["id"] in POLICY]
    for row in unlabelled:
        default, options = POLICY[row["id"]]
        sample = Sample("", row["response"], row["gold"])
        [verdict] = MathVerifier().verify([sample])
        assert verdict.is_correct is default, (row, verdict)
        if options:
            [verdict] = MathVerifier(MathVerifier.Config(**options)).verify([sample])
            assert verdict.is_correct is not default, (row, options, verdict)


def test_math_pairs() -> None:
    verifier = MathVerifier()
    for row in rows("math_pairs.jsonl"):
        if row["expected"] is None:
            continue
        verifier.check_reference(row["gold"])
        [verdict] = verifier.verify([Sample("", row["response"], row["gold"])])
        assert verdict.status in ("correct", "wrong", "unparseable"), (row, verdict)
        assert verdict.is_correct == row["expected"], (row, verdict)
