"""The golden table: every example gets the verdict that its author expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.testing.answers import Answer, ask
from grpo_core.testing.bench import Bench, CheckFailed, close_instance
from grpo_core.testing.example import Example
from grpo_core.types import Json, Status

_SCORE_TOLERANCE = 1e-6


def check_golden(bench: Bench) -> Mapping[str, Json]:
    """Accepted and rejected examples, each with its own options."""
    instances: dict[str, Any] = {}
    bad, kinds = [], set()
    asked = 0
    for example in bench.examples:
        if example.options == bench.main_options and not bench.is_safe(example):
            bad.append(f"{example} must be {_wanted(example)}, but the verifier fails on it")
            continue
        bench.say(example.completion)
        verifier = _instance(bench, example, instances)
        answer = ask(verifier, [bench.sample(example)])[0]
        asked += 1
        kinds.add(str(example.expected))
        if answer.verdict is None or not _is_as_expected(example, answer):
            bad.append(f"{example} must be {_wanted(example)}, is {answer}")
    for instance in instances.values():
        close_instance(instance)
    if bad:
        total = len(bench.examples)
        raise CheckFailed(f"{len(bad)} of {total} examples: {bad[0]}", failed=bad[:20])
    return {"examples": asked, "expected": sorted(kinds)}


def _instance(bench: Bench, example: Example, instances: dict[str, Any]) -> Any:
    if example.options == bench.main_options:
        return bench.instance
    key = repr(example.options)
    if key not in instances:
        instances[key] = bench.subject.with_options(example.options).create()
    return instances[key]


def _is_as_expected(example: Example, answer: Answer) -> bool:
    verdict = answer.verdict
    assert verdict is not None
    match example.expected:
        case "any":
            is_right = verdict.status.is_candidates
        case "reject":
            is_right = verdict.status in (Status.WRONG, Status.UNPARSEABLE)
        case "error":
            is_right = not verdict.status.is_candidates
        case _:
            is_right = verdict.status == example.expected
    if example.score is None or verdict.score is None:
        return is_right and (example.score is None or verdict.score is not None)
    return is_right and abs(verdict.score - example.score) <= _SCORE_TOLERANCE


def _wanted(example: Example) -> str:
    names = {"reject": "wrong or unparseable", "any": "judged", "error": "error or abstain"}
    wanted = names.get(str(example.expected), str(example.expected))
    return wanted if example.score is None else f"{wanted} with score {example.score:g}"
