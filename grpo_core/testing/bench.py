"""What the checks of the suite share: the verifier, its examples, and a pool that runs it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_core.errors import DataError
from grpo_core.testing.answers import Answer, ask
from grpo_core.testing.example import Example, make_sample, shipped_examples
from grpo_core.testing.subject import Subject
from grpo_core.types import Json, Sample, Verdict

if TYPE_CHECKING:
    from grpo_core.testing.survey import Survey
    from grpo_core.verification.pool import VerifierPool

_WINDOW = 256  # samples under way at once


class CheckFailed(Exception):
    """The verifier breaks the rule."""

    def __init__(self, message: str, **evidence: Json) -> None:
        super().__init__(message)
        self.evidence = evidence


class CheckSkipped(Exception):
    """The rule cannot be checked here; the message says why."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is checked.

    Attributes:
        checks: names of the checks to run; () means all.
        kinds: of attacks.
        max_gameability: share of attacks that may get credit; None: what the verifier declares.
        silence: seconds without a sign of life after which a check has failed; None: 60, or more
            where the verifier's own deadline is longer.
    """

    checks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    max_gameability: float | None = None
    silence: float | None = None


@dataclass(frozen=True, slots=True)
class Birth:
    """What making the first instance has cost; only a fresh process can tell."""

    seconds: float
    memory_mb: float
    modules: frozenset[str]  # top-level names that it imported


@dataclass(eq=False)
class Bench:
    """The verifier on the bench.

    Attributes:
        subject: the verifier, with the options that the suite runs with.
        examples: the golden table.
        is_fresh: whether this process was started for this bench alone.
        say: called with a text before anything that may take long.
    """

    subject: Subject
    examples: Sequence[Example]
    settings: Settings = Settings()
    is_fresh: bool = False
    say: Callable[[str], None] = lambda text: None
    _exits: ExitStack = field(default_factory=ExitStack)
    birth: Birth = field(init=False)
    instance: Any = field(init=False)

    def __post_init__(self) -> None:
        modules, memory, started = set(sys.modules), resident_mb(), time.perf_counter()
        definition = self.subject.definition
        self.examples = list(self.examples) or shipped_examples(definition)
        if not self.examples:
            raise DataError(
                f"verifier {self.subject.title} ships no examples, and none were given. Give "
                "pairs with a known verdict (--pairs FILE, or 'examples'), or let the verifier "
                "have an attribute 'examples'; see docs/testing.md."
            )
        if all(example.options for example in self.examples):
            self.subject = self.subject.with_options(self.examples[0].options)
            self.main_options: Mapping[str, Any] = self.examples[0].options
        else:
            self.main_options = {}
        self.instance = self.subject.create()
        new = {name.partition(".")[0] for name in set(sys.modules) - modules}
        seconds = time.perf_counter() - started
        self.birth = Birth(seconds, resident_mb() - memory, frozenset(new))

    @property
    def reads(self) -> tuple[str, ...]:
        """The large fields of a sample that the verifier wants."""
        return tuple(getattr(self.instance, "reads", ()))

    @property
    def placement(self) -> str:
        """Where the verifier wants to run."""
        return str(getattr(self.instance, "placement", "workers"))

    @property
    def main_examples(self) -> list[Example]:
        """Those that need no options of their own."""
        return [example for example in self.examples if example.options == self.main_options]

    @property
    def references(self) -> list[Example]:
        """The first example of each readable reference, in order."""
        found: dict[str, Example] = {}
        for example in self.main_examples:
            if example.expected != "error":
                found.setdefault(repr(example.reference), example)
        return list(found.values())

    def sample(self, example: Example, completion: str | None = None) -> Sample:
        """What the verifier gets for an example, with another completion if one is given."""
        text = example.completion if completion is None else completion
        return make_sample(example.prompt, text, example.reference, example.meta, self.reads)

    @cached_property
    def survey(self) -> Survey:
        """Every text once, each by itself, where a hang or a crash does no harm."""
        from grpo_core.testing.survey import make_survey

        return make_survey(self)

    @property
    def safe_samples(self) -> list[Sample]:
        """The examples that can be asked about in this process."""
        return [self.sample(example) for example in self.main_examples if self.is_safe(example)]

    def is_safe(self, example: Example) -> bool:
        """Whether the verifier answers at all, so that it can be asked in this process."""
        return self.sample(example) not in self.survey.unsafe

    @cached_property
    def pool(self) -> VerifierPool | None:
        """Worker processes that run the verifier; None where they cannot find it."""
        if not self.subject.is_everywhere:
            return None
        from grpo_core.verification.pool import VerifierPool, VerifierSpec

        self.say("starting worker processes")
        spec = VerifierSpec(self.subject.name, self.subject.options)
        return self._exits.enter_context(VerifierPool([spec], self.subject.sources))

    def judge(self, samples: Sequence[Sample]) -> list[Verdict | Answer]:
        """Verdicts of the pool; answers of this process where there is none."""
        if self.pool is None:
            return list(self.ask_each(samples))
        verdicts: list[Verdict | Answer] = []
        for start in range(0, len(samples), _WINDOW):
            part = samples[start : start + _WINDOW]
            futures = [self.pool.submit(self.subject.name, sample) for sample in part]
            for sample, future in zip(part, futures, strict=True):
                self.say(sample.completion)
                verdicts.append(future.result())
        return verdicts

    def ask_each(self, samples: Sequence[Sample], instance: Any = None) -> Iterator[Answer]:
        """Answers to single calls in this process."""
        for sample in samples:
            self.say(sample.completion)
            yield ask(self.instance if instance is None else instance, [sample])[0]

    def fresh(self) -> AbstractContextManager[Any]:
        """A new instance, closed afterwards; the one there is, where it holds a model."""
        if self.placement != "workers":
            return nullcontext(self.instance)
        return closing_instance(self.subject.create())

    def close(self) -> None:
        """End what was started."""
        self._exits.close()
        if self.subject.is_everywhere:
            close_instance(self.instance)


@contextmanager
def closing_instance(instance: Any) -> Iterator[Any]:
    """Close an instance afterwards, if it can be."""
    yield instance
    close_instance(instance)


def close_instance(instance: Any) -> None:
    """End what an instance has started, if it has a method for that."""
    if callable(close := getattr(instance, "close", None)):
        close()


def resident_mb() -> float:
    """Memory of this process, in MB; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
