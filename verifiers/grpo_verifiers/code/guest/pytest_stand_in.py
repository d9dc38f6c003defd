"""The few parts of pytest that tests of single functions use, for a process that has no pytest."""

from __future__ import annotations

import inspect
import re
import types
from typing import Any


class Failed(Exception):
    """A test that has failed by what it did, not by an assert."""


class Raises:
    """`with pytest.raises(ValueError, match=...) as caught:`."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected, self._match = expected, match
        self.value: Any = None
        self.type: Any = None

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            raise Failed(f"did not raise {self._expected}")
        if not isinstance(error, self._expected):
            return False
        self.value, self.type = error, kind
        if self._match is not None and not re.search(self._match, str(error)):
            raise Failed(f"{str(error)!r} does not match {self._match!r}")
        return True


class Approx:
    """`pytest.approx(0.3)`: equal to numbers, lists and dicts of numbers that are near."""

    def __init__(self, expected: Any, rel: float | None, abs: float | None) -> None:
        self._expected, self._rel, self._abs = expected, rel, abs

    def __eq__(self, value: Any) -> bool:
        return self._near(value, self._expected)

    def __ne__(self, value: Any) -> bool:
        return not self == value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _near(self, value: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            return (
                type(value) is dict
                and value.keys() == expected.keys()
                and all(self._near(value[key], expected[key]) for key in expected)
            )
        if isinstance(expected, list | tuple):
            return (
                type(value) in (list, tuple)
                and len(value) == len(expected)
                and all(map(self._near, value, expected))
            )
        if type(value) not in (int, float, complex):
            return type(value) is type(expected) and bool(value == expected)
        if value == expected:
            return True
        if self._abs is not None and self._rel is None:
            return bool(abs(value - expected) <= self._abs)
        relative = 1e-6 if self._rel is None else self._rel
        margin = max(1e-12 if self._abs is None else self._abs, relative * abs(expected))
        return bool(abs(value - expected) <= margin)


def raises(expected: Any, *args: Any, match: str | None = None, **keywords: Any) -> Any:
    """As pytest's: a context, or a call with a function and its arguments."""
    context = Raises(expected, match)
    if not args:
        return context
    with context:
        args[0](*args[1:], **keywords)
    return context


def approx(expected: Any, rel: float | None = None, abs: float | None = None) -> Approx:
    """As pytest's."""
    return Approx(expected, rel, abs)


def fail(reason: str = "") -> None:
    """As pytest's."""
    raise Failed(reason)


def param(*values: Any, **_: Any) -> Any:
    """As pytest's, its id and marks left out."""
    return values if len(values) > 1 else values[0]


def parametrize(names: Any, values: Any, **_: Any) -> Any:
    """As pytest's mark; of several on one function all combinations are run."""
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(function: Any) -> Any:
        rows = [
            dict(zip(keys, value if len(keys) > 1 else [value], strict=True)) for value in values
        ]
        function.parametrized = [rows, *getattr(function, "parametrized", [])]
        return function

    return decorate


def parameters(function: Any) -> list[tuple[str, dict[str, Any]]]:
    """The keyword arguments of each run of a test function, with a label.

    Raises:
        TypeError: if it needs fixtures.
    """
    runs: list[dict[str, Any]] = [{}]
    for rows in getattr(function, "parametrized", []):
        runs = [{**run, **row} for run in runs for row in rows]
    needed = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty and name not in runs[0]
    ]
    if needed:
        raise TypeError(f"fixture '{needed[0]}' of {function.__name__} is not known here")
    return [(f"[{number}]" if len(runs) > 1 else "", run) for number, run in enumerate(runs, 1)]


class _Marks:
    """`pytest.mark`: `parametrize` works, every other mark does nothing."""

    parametrize = staticmethod(parametrize)

    def __getattr__(self, name: str) -> Any:
        def mark(*args: Any, **_: Any) -> Any:
            return args[0] if len(args) == 1 and callable(args[0]) else lambda function: function

        return mark


def module() -> types.ModuleType:
    """What `import pytest` gives."""
    result = types.ModuleType("pytest")
    vars(result).update(raises=raises, approx=approx, fail=fail, param=param, mark=_Marks())
    return result
