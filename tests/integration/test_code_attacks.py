"""Programs that try to pass without being right. None may; none may become anybody else's fault.

`tests/data/code_attacks.jsonl` holds ours. Those that lie beside the repository are run, too, where
they are there; GRPO_SHARED names the folder and defaults to `../shared`.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core.types import Sample, Status
from grpo_verifiers.code import CodeVerifier
from grpo_verifiers.sandbox.inside import landlock

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(os.environ.get("GRPO_SHARED", Path(__file__).parents[2].parent / "shared"))

ASSERTS = {"tests": "assert add(1, 2) == 3\nassert add(4, 8) == 12\n", "entry_point": "add"}
REFEREED = {
    "entry_point": "add",
    "tests": """
def check(candidate):
    for a, b in [(1, 2), (4, 8)]:
        assert candidate(a, b) == a + b
    results = list(map(candidate, [1, 4], [2, 8]))
    assert all(x == y for x, y in zip(results, [3, 12]))
    assert abs(candidate(1, 2) - 3) < 1e-6
    assert candidate(1, 2) in [3]
""",
}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


OURS = read(DATA / "code_attacks.jsonl")
SHARED_FILE = SHARED / "attacks.jsonl"
THEIRS = (
    [attack for attack in read(SHARED_FILE) if attack["kind"] != "iso"]
    if SHARED_FILE.is_file()
    else []
)
# These run into a limit of time or memory, which takes its time.
SLOW = frozenset(
    {"c27", "c29", "c30", "c43", "c52", "c68", "c70", "c73", "v19", "v23", "v27", "v29"}
)


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    result = CodeVerifier(CodeVerifier.Config(timeout=2, total_timeout=4))
    if landlock.abi() == 0:
        pytest.skip("the sandbox needs Landlock, which this kernel does not have")
    result.preload()
    yield result
    result.close()


def attempts(attacks: list[dict[str, Any]]) -> list[Any]:
    return [
        pytest.param(
            attack,
            id=f"{attack['id']}-{attack['category']}",
            marks=[pytest.mark.slow] if attack["id"] in SLOW else [],
        )
        for attack in attacks
    ]


def check(verifier: CodeVerifier, attack: dict[str, Any]) -> None:
    references = [attack["reference"]] if "reference" in attack else [ASSERTS, REFEREED]
    for reference in references:
        tag = reference.get("language", "python")
        sample = Sample("", f"```{tag}\n{attack['code']}\n```", reference)
        [verdict] = verifier.verify([sample])
        assert verdict.status is Status.WRONG, (reference, verdict)
        json.dumps(dict(verdict.details)).encode("utf-8")
        verdict.reason.encode("utf-8")


@pytest.mark.parametrize("attack", attempts(OURS))
def test_our_attacks(verifier: CodeVerifier, attack: dict[str, Any]) -> None:
    check(verifier, attack)


@pytest.mark.slow
@pytest.mark.skipif(not THEIRS, reason=f"no attacks at {SHARED_FILE}; set GRPO_SHARED")
@pytest.mark.parametrize("attack", attempts(THEIRS))
def test_shared_attacks(verifier: CodeVerifier, attack: dict[str, Any]) -> None:
    check(verifier, attack)


def test_the_references_can_be_met(verifier: CodeVerifier) -> None:
    code = "```python\ndef add(a, b): return a + b\n```"
    for reference in (ASSERTS, REFEREED):
        [verdict] = verifier.verify([Sample("", code, reference)])
        assert verdict.status is Status.CORRECT, verdict


@pytest.mark.slow
def test_hostile_values_do_not_fill_the_hosts_memory(verifier: CodeVerifier) -> None:
    code = "def add(a, b): return {}\n"
    values = ("'9' * 300_000_000", "[[] for _ in range(450_000)]", "'\\U0001f600' * 600_000")
    samples = [Sample("", f"```python\n{code.format(value)}```", ASSERTS) for value in values]
    verifier.verify(samples[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for verdict in verifier.verify(samples * 2):
        assert verdict.status is Status.WRONG
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 150, f"{grown:.0f} MB"
