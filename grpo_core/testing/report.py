"""What the conformance suite found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from grpo_core.types import Json

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Attributes:
        rule: what was checked, for people.
        message: what was found wrong, or why the check was left out; "" when it passed.
        evidence: numbers, and the inputs that failed; plain JSON.
        seconds: how long the check took.
    """

    name: str
    outcome: Outcome
    rule: str = ""
    message: str = ""
    evidence: Mapping[str, Json] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Json]:
        """As plain values; `CheckResult(**value)` is the inverse."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} {self.outcome}: {self.message}" if self.message else self.name


@dataclass(frozen=True, slots=True)
class ConformanceReport:
    """All checks of one verifier, in the order in which they ran."""

    verifier: str
    version: str
    results: Sequence[CheckResult]

    @property
    def passed(self) -> bool:
        """Whether no check failed; what was left out counts as neither."""
        return not self.failures

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if result.outcome == "failed"]

    @property
    def gameability(self) -> float | None:
        """The share of attacks that got credit; None where they were not tried."""
        found = [result for result in self.results if result.name == "gameability"]
        score = found[0].evidence.get("score") if found else None
        return None if score is None else float(score)

    def __getitem__(self, name: str) -> CheckResult:
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(name)

    def to_json(self) -> dict[str, Json]:
        """As plain values; `from_json` is the inverse."""
        return {
            "verifier": self.verifier,
            "version": self.version,
            "passed": self.passed,
            "gameability": self.gameability,
            "results": [result.to_json() for result in self.results],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> ConformanceReport:
        """A report that `to_json` wrote."""
        results = [CheckResult(**result) for result in value["results"]]
        return cls(value["verifier"], value["version"], results)

    def __str__(self) -> str:
        """The failures, a line or more each; or that there are none."""
        if self.passed:
            return f"{self.verifier} {self.version}: all {len(self.results)} checks passed"
        lines = [f"  {result.name}: {result.message}" for result in self.failures]
        return "\n".join([f"{self.verifier} {self.version} does not conform:", *lines])
