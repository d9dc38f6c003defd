"""What became of a completion's tests, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grpo_core.types import Json, Verdict
from grpo_verifiers.code.shown import MAX_SHOWN, shorten

MAX_LISTED = 50  # tests in a verdict's details; failed ones first
MAX_TEXT = 6_000  # characters of their names and problems
MAX_REASON = 400
_PRELOAD = "; programs may import the standard modules, and those that the option preload names"

TestStatus = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class TestResult:
    """How one test went.

    Attributes:
        name: of the test, as shown to people.
        status: whether it passed.
        problem: what was wrong.
        seconds: that it took; 0 where it was not timed by itself.
    """

    name: str
    status: TestStatus
    problem: str = ""
    seconds: float = 0.0

    # Not a test of pytest's, whatever its name begins with.
    __test__ = False

    @classmethod
    def of(cls, name: str, problem: str, seconds: float = 0.0) -> TestResult:
        """A test that was run: passed, if nothing was wrong."""
        return cls(name, "failed" if problem else "passed", problem, seconds)

    def to_json(self, number: int) -> dict[str, Json]:
        """For a verdict's details."""
        shown: dict[str, Json] = {
            "test": number,
            "name": shorten(self.name),
            "status": self.status,
            "seconds": round(self.seconds, 4),
        }
        return {**shown, "problem": shorten(self.problem)} if self.problem else shown


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all tests of one completion.

    Attributes:
        results: in the order of the tests.
        problem: what was wrong with the program as a whole, such as a syntax error.
        stderr: the end of what it wrote there.
        saw_object: whether a value could not be compared, for being an object.
    """

    results: Sequence[TestResult]
    problem: str = ""
    stderr: str = ""
    saw_object: bool = False

    __test__ = False

    @property
    def num_passed(self) -> int:
        """Tests that passed."""
        return sum(result.status == "passed" for result in self.results)

    @property
    def is_correct(self) -> bool:
        """Whether every test passed, and there was one."""
        return bool(self.results) and not self.problem and self.num_passed == len(self.results)

    def verdict(self, *, partial: bool, details: dict[str, Json]) -> Verdict:
        """Correct only if all tests passed; otherwise wrong, with the share as score if partial."""
        total = len(self.results)
        details = {**details, "passed": self.num_passed, "total": total, "tests": self._listed()}
        if self.stderr:
            details["stderr"] = self.stderr
        if self.is_correct:
            noun = "test" if total == 1 else "tests"
            return Verdict.correct(f"{total} {noun} passed", details)
        share = self.num_passed / total if partial and total and not self.problem else 0.0
        reason = self._reason()
        hint = _PRELOAD if "ModuleNotFoundError" in reason else ""
        return Verdict.wrong(shorten(reason, MAX_REASON) + hint, details, score=share)

    def _reason(self) -> str:
        if self.problem:
            return self.problem
        for number, result in enumerate(self.results, 1):
            if result.status == "failed":
                name = shorten(result.name, MAX_SHOWN // 2)
                return f"test {number} of {len(self.results)} failed: {name}: {result.problem}"
        return "not all tests were run"

    def _listed(self) -> list[Json]:
        """Some of the results as plain values: failed ones, then others, in their order."""
        numbered = list(enumerate(self.results, 1))
        kept = sorted(numbered, key=lambda item: item[1].status != "failed")[:MAX_LISTED]
        listed: list[Json] = []
        left = MAX_TEXT
        for number, result in sorted(kept, key=lambda item: item[0]):
            shown = result.to_json(number)
            left -= len(shown["name"]) + len(shown.get("problem", ""))
            if left < 0:
                shown = {key: shown[key] for key in ("test", "status", "seconds")}
            listed.append(shown)
        return listed


def not_run(names: Sequence[str]) -> list[TestResult]:
    """Results of tests that an earlier failure has left out."""
    return [TestResult(name, "not run") for name in names]
