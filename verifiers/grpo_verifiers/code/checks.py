"""Tests as data: calls of the candidate, and what must hold of their outcomes.

The calls go into the candidate's process; what must hold stays here.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grpo_verifiers.code.expressions import evaluate
from grpo_verifiers.code.shown import shown

# What Python's operators raise on builtin values; anything else is a mistake of ours.
EVALUATION_ERRORS = (
    TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the candidate's functions with plain values."""

    function: str
    arguments: Sequence[Any] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As it would be written, shortened."""
        parts = [*map(shown, self.arguments)]
        parts += [f"{name}={shown(value)}" for name, value in self.keywords.items()]
        return f"{self.function}({', '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call: a value, or why there is none.

    Attributes:
        kind: "value"; "raised" an exception; "object" something that is no plain value;
            "unreadable" a value past the limits; "lost" the process ended, hung or broke the
            protocol.
        problem: for people, where there is no value.
        bases: names of the exception's class and of those it extends.
        seconds: that the call took, from outside.
    """

    kind: Literal["value", "raised", "object", "unreadable", "lost"]
    value: Any = None
    problem: str = ""
    bases: tuple[str, ...] = ()
    seconds: float = 0.0


class NoValue(Exception):
    """A test needs the value of a call that has none."""


class Results(Mapping[str, Any]):
    """The values of a check's calls by name, `call_0` and so on; reading a missing one raises."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes
        self._by_name = {call_name(index): item for index, item in enumerate(outcomes)}

    def __getitem__(self, name: str) -> Any:
        outcome = self._by_name[name]
        if outcome.kind != "value":
            raise NoValue(outcome.problem)
        return outcome.value

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def call_name(index: int) -> str:
    """The name by which a judge refers to the outcome of a call."""
    return f"call_{index}"


Judge = Callable[[Results], bool]


@dataclass(frozen=True, slots=True)
class Check:
    """One test.

    Attributes:
        name: as shown to people, such as the source of the assert.
        calls: to make, all of them, in this order.
        judge: whether the outcomes pass.
        expected: what is compared with, where that is one value; for people.
    """

    name: str
    calls: tuple[Call, ...]
    judge: Judge
    expected: str = ""

    def problem(self, outcomes: Sequence[Outcome]) -> str:
        """Why the outcomes do not pass; empty if they do."""
        try:
            if self.judge(Results(outcomes)):
                return ""
        except NoValue as error:
            return str(error)
        except EVALUATION_ERRORS as error:
            return f"{type(error).__name__}: {error}"
        return self._difference(outcomes)

    def _difference(self, outcomes: Sequence[Outcome]) -> str:
        parts = []
        for call, outcome in zip(self.calls, outcomes, strict=True):
            found = shown(outcome.value) if outcome.kind == "value" else outcome.problem
            parts.append(f"{call.text} gave {found}")
        return "; ".join(parts) + (f", expected {self.expected}" if self.expected else "")


@dataclass(frozen=True, slots=True)
class Holds:
    """The judge of an assert: its expression must be true."""

    node: ast.expr

    def __call__(self, results: Results) -> bool:
        """Whether the expression is true of the results."""
        return bool(evaluate(self.node, results))


@dataclass(frozen=True, slots=True)
class Equals:
    """The judge of a call case: one value, compared as Python's `==` does.

    Attributes:
        expected: the values that count as right.
        tolerance: largest difference between numbers, relative or absolute.
        like_json: a tuple equals the list of its items, as in JSON.
    """

    expected: tuple[Any, ...]
    tolerance: float = 0.0
    like_json: bool = False

    def __call__(self, results: Results) -> bool:
        """Whether the first call's value is right."""
        value = results[call_name(0)]
        if self.like_json:
            value = _without_tuples(value)
        if any(value == expected for expected in self.expected):
            return True
        return self.tolerance > 0 and any(
            is_close(value, expected, self.tolerance) for expected in self.expected
        )


@dataclass(frozen=True, slots=True)
class Raises:
    """The judge of a call that must raise an exception of this name, or one that extends it."""

    name: str

    def __call__(self, results: Results) -> bool:
        """Whether the first call raised it."""
        outcome = results.outcomes[0]
        if outcome.kind not in ("raised", "value"):
            raise NoValue(outcome.problem)
        return outcome.kind == "raised" and self.name in outcome.bases


def is_close(value: Any, expected: Any, tolerance: float) -> bool:
    """Equality of values whose numbers may differ by `tolerance`, relative or absolute."""
    if isinstance(expected, int | float) and not isinstance(expected, bool):
        if type(value) not in (int, float):
            return False
        if not math.isfinite(value) or not math.isfinite(expected):
            return bool(value == expected)
        return abs(value - expected) <= max(tolerance, tolerance * abs(expected))
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list | tuple):
        pairs = zip(value, expected, strict=False)
        return len(value) == len(expected) and all(is_close(*pair, tolerance) for pair in pairs)
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            is_close(value[key], expected[key], tolerance) for key in expected
        )
    return bool(value == expected)


def _without_tuples(value: Any) -> Any:
    """Tuples as lists and keys of dicts as text, as `json.dumps` writes them."""
    if isinstance(value, list | tuple):
        return [_without_tuples(item) for item in value]
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else _json_key(key): _without_tuples(item)
            for key, item in value.items()
        }
    return value


def _json_key(key: Any) -> Any:
    return json.dumps(key) if key is None or isinstance(key, bool | int | float) else key
