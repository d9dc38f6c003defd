"""What a check reports, what it works on, and how checks follow one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from grpo_core.config import RunConfig
from grpo_core.errors import GrpoError
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.protocols import Sampler, Task
from grpo_core.types import Json, Prompt

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from grpo_core.assembly import LoadedModel
    from grpo_core.training.learner import Learner
    from grpo_core.training.packing import TrainingCompletion


class Grade(StrEnum):
    """How grave a finding is; a problem makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Attributes:
        name: what was looked at.
        found: what was seen, with numbers; for a skipped check why it was.
        cure: what to do; empty where nothing is to be done, or `found` says it.
        numbers: the measured values, for programs.
    """

    name: str
    grade: Grade
    found: str
    cure: str = ""
    numbers: Mapping[str, Json] = field(default_factory=dict)


def ok(name: str, found: str, **numbers: Json) -> Finding:
    """All is well."""
    return Finding(name, Grade.OK, found, "", numbers)


def warning(name: str, found: str, cure: str, **numbers: Json) -> Finding:
    """A run can go on, and its user should know."""
    return Finding(name, Grade.WARNING, found, cure, numbers)


def problem(name: str, found: str, cure: str, **numbers: Json) -> Finding:
    """A run would fail, or its results would be wrong."""
    return Finding(name, Grade.PROBLEM, found, cure, numbers)


def skipped(name: str, reason: str) -> Finding:
    """Nothing was looked at."""
    return Finding(name, Grade.SKIPPED, reason)


@dataclass(slots=True)
class Bench:
    """What is examined. Parts below the line are put there by the checks that make them."""

    config: RunConfig
    sources: PluginSources
    # ---
    plugins: Plugins = field(init=False)
    task: Task = field(init=False)
    train: Sequence[Prompt] = field(init=False)
    held_out: Sequence[Prompt] = field(init=False)
    folder: Path = field(init=False)
    base: Path = field(init=False)  # the folder itself, or of an adapter its base's
    tokenizer: PreTrainedTokenizerBase = field(init=False)
    eos: frozenset[int] = field(init=False)
    loaded: LoadedModel = field(init=False)
    learner: Learner = field(init=False)
    sampler: Sampler | None = None
    completions: Sequence[TrainingCompletion] = field(init=False)

    def close(self) -> None:
        """End what was started."""
        if self.sampler is not None:
            self.sampler.close()


@dataclass(frozen=True, slots=True)
class Check:
    """A thing to look at.

    Attributes:
        look: yields findings. An error it raises is a problem, and its part of the bench is
            missing then; a problem it yields leaves the part there.
        needs: names of checks whose parts it works on.
        is_slow: whether it loads the model; `--quick` leaves these out.
    """

    name: str
    look: Callable[[Bench], Iterator[Finding]]
    needs: tuple[str, ...] = ()
    is_slow: bool = False


def run_checks(
    checks: Sequence[Check], bench: Bench, broken: set[str], *, quick: bool = False
) -> Iterator[Finding]:
    """Carry out checks in order; those that rest on one that broke down are skipped.

    Args:
        checks: what to look at.
        bench: what they work on.
        broken: names of checks that broke down or were skipped; added to.
        quick: leave out what loads the model.
    """
    for check in checks:
        missing = [name for name in check.needs if name in broken]
        if missing or (quick and check.is_slow):
            broken.add(check.name)
            reason = f"it rests on '{missing[0]}'" if missing else "left out by --quick"
            yield skipped(check.name, reason)
            continue
        try:
            yield from check.look(bench)
        except GrpoError as error:
            broken.add(check.name)
            yield problem(check.name, str(error), "")  # our messages name their cure
        except Exception as error:  # noqa: BLE001 - a strange model or plugin is what we are for
            broken.add(check.name)
            yield problem(
                check.name,
                f"failed with {type(error).__name__}: {error}",
                "If this is not the model's or a plugin's fault, please report it.",
            )
