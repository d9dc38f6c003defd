"""Values of the standard library that count as plain: dates, fractions, ranges and the like.

Each is a name and parts that are plain themselves; it is rebuilt only from parts of the right
types and of a size that does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

MAX_RANGE = 1_000_000  # items
MAX_EXPONENT = 10_000  # of a Decimal


class CodecError(ValueError):
    """A value cannot cross, or what arrived is not a value."""


def parts_of(value: Any) -> tuple[str, list[Any]] | None:
    """Name and parts of a value of the standard library; None if it is of another type."""
    kind = type(value)
    if kind is deque:
        return "deque", [list(value), value.maxlen]
    if kind in (datetime, time) and value.tzinfo is not None:
        return None
    parts = _KNOWN.get(kind)
    return None if parts is None else (kind.__name__, parts(value))


def rebuild(items: list[Any]) -> Any:
    """The value of a name and parts.

    Raises:
        CodecError: if they are not what `parts_of` gives.
    """
    if not items or type(items[0]) is not str or items[0] not in _REBUILD:
        raise CodecError("a known type that is not known")
    name, *parts = items
    try:
        if name == "Decimal":
            return _read_decimal(*parts)
        if name == "deque":
            return deque(_list(parts[0]), parts[1])
        if any(type(part) is not int for part in parts):
            raise CodecError(f"a {name} of odd parts")
        value = _REBUILD[name](*parts)
        if name == "range" and len(value) > MAX_RANGE:
            raise CodecError(f"a range of more than {MAX_RANGE} items")
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise CodecError(f"no {name}: {error}"[:200]) from None
    return value


def _read_decimal(text: Any) -> Decimal:
    if type(text) is not str or len(text) > 5_000:
        raise CodecError("a Decimal that is no short text")
    value = Decimal(text)
    if value.is_finite() and abs(value.adjusted()) > MAX_EXPONENT:
        raise CodecError("a Decimal with a large exponent")
    return value


def _list(items: Any) -> list[Any]:
    if type(items) is not list:
        raise CodecError("items that are no list")
    return items


_KNOWN: dict[type, Callable[[Any], list[Any]]] = {
    range: lambda value: [value.start, value.stop, value.step],
    Fraction: lambda value: [value.numerator, value.denominator],
    Decimal: lambda value: [str(value)],
    date: lambda value: [value.year, value.month, value.day],
    time: lambda value: [value.hour, value.minute, value.second, value.microsecond],
    datetime: lambda value: [
        value.year, value.month, value.day, value.hour, value.minute, value.second,
        value.microsecond,
    ],
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
}  # fmt: skip
_REBUILD: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in (*_KNOWN, deque)}
