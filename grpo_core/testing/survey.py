"""The survey: every text once, each by itself, in worker processes that bear hangs and crashes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grpo_core.testing.answers import Answer, ask, is_failure
from grpo_core.testing.bench import Bench
from grpo_core.testing.texts import ODD_TEXTS, ODDER_TEXTS
from grpo_core.types import Sample, Status, Verdict

Fate = Literal["answered", "failed", "hung", "crashed", "limited"]
# How the pool tells of what it has seen.
_RAISED = {"exception", "message", "where"}
_CRASHED = ("crashed", "ended its worker", "closed its connection", "broke its worker")
_LIMITED = "the answer could not be evaluated within"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one sample.

    Attributes:
        fate: "limited" is a hang or a memory bomb that the candidate answers for.
        is_example: whether it is an example, or one of the odd texts.
    """

    sample: Sample
    fate: Fate
    verdict: Verdict | None
    message: str
    seconds: float
    is_example: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """All entries, the examples first."""

    entries: Sequence[Entry]

    @property
    def unsafe(self) -> list[Sample]:
        """What must not be asked in this process."""
        fates = ("hung", "crashed", "limited")
        return [entry.sample for entry in self.entries if entry.fate in fates]

    def of(self, *fates: Fate) -> list[Entry]:
        """The entries of these fates."""
        return [entry for entry in self.entries if entry.fate in fates]


def make_survey(bench: Bench) -> Survey:
    """Judge the examples and the odd texts."""
    examples = [bench.sample(example) for example in bench.main_examples]
    odd = [
        bench.sample(example, text)
        for example in bench.references[:1]
        for text in (*ODD_TEXTS, *ODDER_TEXTS)
    ]
    samples = [*examples, *odd]
    if bench.pool is None:
        found = [_in_process(bench, sample) for sample in samples]
    else:
        found = [_from_pool(verdict) for verdict in bench.judge(samples)]
    return Survey(
        [
            Entry(sample, fate, verdict, message, seconds, at < len(examples))
            for at, (sample, (fate, verdict, message, seconds)) in enumerate(
                zip(samples, found, strict=True)
            )
        ]
    )


_Found = tuple[Fate, Verdict | None, str, float]


def _in_process(bench: Bench, sample: Sample) -> _Found:
    bench.say(sample.completion)
    started = time.perf_counter()
    answer = ask(bench.instance, [sample])[0]
    seconds = time.perf_counter() - started
    has_failed = answer.verdict is None or is_failure(answer.verdict)
    return ("failed" if has_failed else "answered"), answer.verdict, str(answer), seconds


def _from_pool(verdict: Verdict | Answer) -> _Found:
    assert isinstance(verdict, Verdict)
    return _fate(verdict), verdict, verdict.reason, verdict.seconds


def _fate(verdict: Verdict) -> Fate:
    if verdict.status is Status.TIMEOUT:
        return "hung"
    if verdict.status is Status.WRONG and verdict.reason.startswith(_LIMITED):
        return "limited"
    if verdict.status is not Status.ERROR:
        return "answered"
    if {"signal", "exit_code", "memory_mb"} & set(verdict.details):
        return "crashed"
    is_raised = set(verdict.details) == _RAISED
    return "crashed" if not is_raised and any(x in verdict.reason for x in _CRASHED) else "failed"
