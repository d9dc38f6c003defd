"""Ask a verifier in this process, and sort what comes back."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpo_core.types
from grpo_core.errors import VerifierError
from grpo_core.types import Sample, Status, Verdict

Problem = Literal["raised", "score", "type", "count"]

# A verdict of a learned verifier may move this far with the batch it is in.
SCORE_TOLERANCE = 1e-3
_TYPES_FILE = Path(grpo_core.types.__file__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verifier said to one sample: a verdict, or a problem and its description."""

    verdict: Verdict | None = None
    problem: Problem | None = None
    message: str = ""

    def __str__(self) -> str:
        return self.message if self.verdict is None else show(self.verdict)


def ask(verifier: Any, samples: Sequence[Sample]) -> list[Answer]:
    """One call with all samples; an answer each."""
    try:
        verdicts = list(verifier.verify(samples))
    except VerifierError as error:  # what a verifier is asked to raise where it cannot judge
        return [Answer(Verdict.error(str(error)))] * len(samples)
    except Exception as error:  # noqa: BLE001 - the boundary to a stranger's code
        problem: Problem = "score" if _is_from_verdict(error) else "raised"
        return [Answer(None, problem, describe(error))] * len(samples)
    if len(verdicts) != len(samples):
        message = f"{len(verdicts)} verdicts for {len(samples)} samples"
        return [Answer(None, "count", message)] * len(samples)
    return [_answer(verdict) for verdict in verdicts]


def ask_singly(verifier: Any, samples: Sequence[Sample]) -> list[Answer]:
    """One call a sample."""
    return [ask(verifier, [sample])[0] for sample in samples]


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are alike in all that training looks at."""
    if one.verdict is None or other.verdict is None:
        return one.problem == other.problem
    first, second = one.verdict, other.verdict
    scores = [first.score or 0.0, *(step.score for step in first.steps)]
    others = [second.score or 0.0, *(step.score for step in second.steps)]
    return (
        first.status == second.status
        and [step.end for step in first.steps] == [step.end for step in second.steps]
        and all(abs(a - b) <= SCORE_TOLERANCE for a, b in zip(scores, others, strict=True))
    )


def show(verdict: Verdict) -> str:
    """A verdict in few words."""
    score = "" if verdict.score is None else f" {verdict.score:g}"
    reason = f" ({verdict.reason[:200]})" if verdict.reason else ""
    return f"{verdict.status}{score}{reason}"


def show_sample(sample: Sample) -> str:
    """A sample in few words."""
    return f"completion {sample.completion!r:.200} with reference {sample.reference!r:.200}"


def is_failure(verdict: Verdict) -> bool:
    """Whether the verifier says that it failed."""
    return verdict.status in (Status.ERROR, Status.TIMEOUT)


def describe(error: BaseException) -> str:
    """An exception with the line it comes from."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    where = "".join(f" at {Path(f.filename).name}:{f.lineno}" for f in frames)
    return f"raised {type(error).__name__}: {str(error)[:300]}{where}"


def _answer(verdict: object) -> Answer:
    if not isinstance(verdict, Verdict):
        return Answer(None, "type", f"got {verdict!r:.80}, not a Verdict")
    if verdict.score is not None and not 0.0 <= verdict.score <= 1.0:
        return Answer(None, "score", f"scores {verdict.score!r}, which is not in [0, 1]")
    return Answer(verdict)


def _is_from_verdict(error: Exception) -> bool:
    """Whether the Verdict refused its score."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and Path(frames[-1].filename) == _TYPES_FILE
