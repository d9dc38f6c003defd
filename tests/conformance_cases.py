"""Verifiers that each break one rule, for the tests of the conformance suite."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from grpo_core.errors import VerifierError
from grpo_core.testing import Example
from grpo_core.types import Sample, StepScore, Verdict

EXAMPLES = (
    Example("42", "42", "correct", "What is 6 * 7?"),
    Example(" 42\n", "42", "accept"),
    Example("41", "42", "wrong"),
    Example("", "42", "unparseable"),
    Example("Paris", "Paris", True, meta={"country": "France"}),
    Example("Rome", "Paris", False),
)


class Good:
    """Exact match, done well."""

    version = "1.0"
    examples = EXAMPLES

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        ignore_case: bool = False

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def verify(self, samples: Sequence[Sample]) -> Sequence[Any]:
        return [self.judge(sample) for sample in samples]

    def check_reference(self, reference: Any) -> None:
        if not isinstance(reference, str) or not reference.strip():
            raise VerifierError(f"the reference must be text, got {reference!r:.80}")

    def judge(self, sample: Sample) -> Any:
        self.check_reference(sample.reference)
        found, wanted = sample.completion.strip(), sample.reference.strip()
        if self.config.ignore_case:
            found, wanted = found.casefold(), wanted.casefold()
        if not found:
            return Verdict.unparseable("nothing")
        return Verdict.correct("equal") if found == wanted else self.wrong()

    def wrong(self) -> Any:
        return Verdict.wrong("not equal")


class RandomScores(Good):
    def wrong(self) -> Verdict:
        return Verdict.wrong(score=random.random() / 2)


class BatchScores(Good):
    size = 1

    def verify(self, samples: Sequence[Sample]) -> Sequence[Any]:
        self.size = len(samples)
        return super().verify(samples)

    def wrong(self) -> Verdict:
        return Verdict.wrong(score=0.0 if self.size == 1 else 0.5)


class DropsFromBatches(Good):
    def verify(self, samples: Sequence[Sample]) -> Sequence[Any]:
        return super().verify(samples)[: max(1, len(samples) - 1)]


class RaisesOnEmoji(Good):
    def judge(self, sample: Sample) -> Any:
        if "\N{GRINNING FACE}" in sample.completion:
            raise UnicodeError("no faces")
        return super().judge(sample)


class FailsOnLongTexts(Good):
    def judge(self, sample: Sample) -> Any:
        if len(sample.completion) > 50_000:
            return Verdict.error("too long")
        return super().judge(sample)


class RaisesOnRareTexts(Good):
    """Only a random text finds it: none of the fixed ones has this sign."""

    def judge(self, sample: Sample) -> Any:
        if "∞" in sample.completion:
            raise OverflowError("too much")
        return super().judge(sample)


class ChangesMeta(Good):
    def judge(self, sample: Sample) -> Any:
        sample.meta["seen"] = True  # type: ignore[index]
        return super().judge(sample)


class SortsSamples(Good):
    def verify(self, samples: Sequence[Sample]) -> Sequence[Any]:
        verdicts = super().verify(samples)
        samples.sort(key=lambda sample: sample.completion)  # type: ignore[attr-defined]
        return verdicts


class RemembersTheLast(Good):
    last: Any = None
    is_new = False

    def judge(self, sample: Sample) -> Any:
        self.is_new = self.last not in (None, sample.reference)
        self.last = sample.reference
        return super().judge(sample)

    def wrong(self) -> Verdict:
        return Verdict.wrong(score=0.5 if self.is_new else 0.0)


class CountsCalls(Good):
    """Kept by the class, so that a new instance goes on counting."""

    calls = 0

    def wrong(self) -> Verdict:
        type(self).calls += 1
        return Verdict.wrong(score=1 / (1 + self.calls))


class AcceptsEverything(Good):
    def judge(self, sample: Sample) -> Any:
        self.check_reference(sample.reference)
        return Verdict.correct()


class RejectsEverything(Good):
    def judge(self, sample: Sample) -> Any:
        self.check_reference(sample.reference)
        return self.wrong() if sample.completion.strip() else Verdict.unparseable()


class FindsItAnywhere(Good):
    """Spraying wins."""

    def judge(self, sample: Sample) -> Any:
        self.check_reference(sample.reference)
        if not sample.completion.strip():
            return Verdict.unparseable()
        return Verdict.correct() if sample.reference in sample.completion else self.wrong()


class FailsUnderAttack(Good):
    """A dead endpoint gives no credit, and no verdict either."""

    def judge(self, sample: Sample) -> Any:
        if sample.completion.strip() in {example.completion.strip() for example in EXAMPLES}:
            return super().judge(sample)
        return Verdict.error("out of service")


class Hangs(Good):
    deadline = 0.3

    def judge(self, sample: Sample) -> Any:
        while "((((" in sample.completion:
            time.sleep(0.01)
        return super().judge(sample)


class HangsHere(Good):
    """In a thread that is not the main one, where no pool kills it."""

    def judge(self, sample: Sample) -> Any:
        import threading

        while threading.current_thread() is not threading.main_thread():
            time.sleep(0.01)
        return super().judge(sample)


class Crashes(Good):
    def judge(self, sample: Sample) -> Any:
        if "DROP TABLE" in sample.completion:
            os._exit(3)
        return super().judge(sample)


class BearsLimits(Hangs):
    """As `Hangs`, but a hang is the candidate's fault: this one passes."""

    candidate_bears_limits = True


class LeaksMemory(Good):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.kept: list[bytes] = []

    def judge(self, sample: Sample) -> Any:
        self.kept.append(bytes(bytearray(b"x" * 40_000)))
        return super().judge(sample)


class LeaksFiles(Good):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.calls = 0
        self.files: list[Any] = []

    def judge(self, sample: Sample) -> Any:
        self.calls += 1
        if self.calls % 50 == 0:
            self.files.append(open(os.devnull))  # noqa: SIM115
        return super().judge(sample)

    def __del__(self) -> None:
        for file in self.files:
            file.close()


class ScoresTwo(Good):
    def wrong(self) -> Verdict:
        return Verdict.wrong(score=2.0)


class ScoresTwoInSecret(Good):
    def wrong(self) -> Verdict:
        verdict = Verdict.wrong()
        object.__setattr__(verdict, "score", 2.0)
        return verdict


class StepsBeyondTheEnd(Good):
    def wrong(self) -> Verdict:
        return replace(Verdict.wrong(), steps=(StepScore(10_000_000, 0.5),))


class ReturnsBools(Good):
    def verify(self, samples: Sequence[Sample]) -> Sequence[Any]:
        return [verdict.is_correct for verdict in super().verify(samples)]


class ObjectsInDetails(Good):
    def wrong(self) -> Verdict:
        return Verdict.wrong(details={"error": ValueError("x")})


class TuplesInDetails(Good):
    def wrong(self) -> Verdict:
        return Verdict.wrong(details={"interval": (0, 1)})


class HugeDetails(Good):
    def wrong(self) -> Verdict:
        return Verdict.wrong(details={"log": "x" * 70_000})


class HeavyConstructor(Good):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.table = bytearray(os.urandom(1 << 20) * 80)


class ImportsModels(Good):
    """`jax` is a small file that the test puts on the path."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        import jax  # type: ignore[import-not-found]  # noqa: F401


class HashOrder(Good):
    def wrong(self) -> Verdict:
        words = {"alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"}
        return Verdict.wrong(score=len("".join(words).partition("eta")[0]) / 100)


class KnowsWorkers(Good):
    def wrong(self) -> Verdict:
        in_worker = "grpo-verifier" in Path("/proc/self/comm").read_text()
        return Verdict.wrong(score=0.5 if in_worker else 0.0)


class UsesAlarms(Good):
    def judge(self, sample: Sample) -> Any:
        old = signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ValueError off the main thread
        signal.signal(signal.SIGALRM, old)
        return super().judge(sample)


class NeedsNoLoop(Good):
    def judge(self, sample: Sample) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return super().judge(sample)
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")


class RaisesOnReferences(Good):
    def check_reference(self, reference: Any) -> None:
        if reference.strip() == "":  # AttributeError for what is no text
            raise VerifierError("empty")

    def judge(self, sample: Sample) -> Any:
        if not isinstance(sample.reference, str):
            raise VerifierError("no text")
        return super().judge(sample)


class JudgesByAnything(Good):
    def judge(self, sample: Sample) -> Any:
        if not isinstance(sample.reference, str) or not sample.reference.strip():
            return Verdict.wrong("not that")
        return super().judge(sample)


class FindsOutLate(Good):
    def check_reference(self, reference: Any) -> None:
        pass

    def judge(self, sample: Sample) -> Any:
        super().check_reference(sample.reference)
        return super().judge(sample)


class ElsewherePlaced(Good):
    placement = "moon"


class VersionOne(Good):
    version = 1.0  # type: ignore[assignment]


class FunctionInOptions(Good):
    class Config(BaseModel):
        transform: Callable[[str], str] = str.strip

    def __init__(self, config: Any = None) -> None:
        super().__init__(Good.Config())


# What each of them breaks, in any process.
EVERYWHERE: dict[type, set[str]] = {
    Good: set(),
    RandomScores: {"determinism"},
    CountsCalls: {"determinism"},
    RemembersTheLast: {"order"},
    BatchScores: {"batch"},
    DropsFromBatches: {"batch"},
    ReturnsBools: {"batch", "golden"},
    RaisesOnEmoji: {"any_text"},
    FailsOnLongTexts: {"any_text"},
    RaisesOnRareTexts: {"any_text"},
    ChangesMeta: {"inputs"},
    SortsSamples: {"inputs"},
    AcceptsEverything: {"golden", "gameability"},
    RejectsEverything: {"golden"},
    FindsItAnywhere: {"gameability"},
    FailsUnderAttack: {"any_text", "gameability"},
    LeaksMemory: {"memory"},
    LeaksFiles: {"memory"},
    ScoresTwo: {"bounds", "golden"},
    ScoresTwoInSecret: {"bounds", "golden"},
    StepsBeyondTheEnd: {"bounds"},
    ObjectsInDetails: {"details"},
    TuplesInDetails: {"details"},
    HugeDetails: {"details"},
    UsesAlarms: {"thread"},
    NeedsNoLoop: {"asyncio"},
    RaisesOnReferences: {"references"},
    JudgesByAnything: {"references"},
    FindsOutLate: {"references"},
    ElsewherePlaced: {"declared"},
    VersionOne: {"declared"},
    FunctionInOptions: {"config"},
}

# And what only shows in processes of their own.
IN_PROCESSES: dict[type, set[str]] = {
    Hangs: {"latency"},
    HangsHere: {"thread"},
    BearsLimits: set(),
    Crashes: {"latency"},
    HeavyConstructor: {"constructor"},
    HashOrder: {"hash_seed"},
    KnowsWorkers: {"process"},
}
