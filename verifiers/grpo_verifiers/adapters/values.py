"""Plain values from what strangers' functions return: tensors, arrays, NumPy numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from grpo_core.errors import VerifierError
from grpo_core.types import Json

_SHOWN = 500  # characters of what is no plain value


def as_number(value: Any, who: str) -> float:
    """One number, out of a tensor or array of one, too.

    Raises:
        VerifierError: if it is none.
    """
    plain = _plain(value)
    while isinstance(plain, list) and len(plain) == 1:
        plain = plain[0]
    if isinstance(plain, bool | int | float):
        return float(plain)
    raise VerifierError(f"{who} returned {_shown(value)} where a number was expected.")


def as_numbers(value: Any, count: int, who: str) -> list[float | None]:
    """`count` numbers or None, out of a list, tensor, or array.

    Raises:
        VerifierError: if they are not that.
    """
    plain = _plain(value)
    if isinstance(plain, bool | int | float) and count == 1:
        plain = [plain]
    if not isinstance(plain, list | tuple):
        raise VerifierError(
            f"{who} returned {_shown(value)} where a list of {count} rewards was expected."
        )
    if len(plain) != count:
        raise VerifierError(
            f"{who} returned {len(plain)} rewards for {count} samples. It must return one each; "
            "set batch_size = 1 if it takes one sample at a time."
        )
    return [None if item is None else as_number(item, who) for item in plain]


def as_json(value: Any, depth: int = 6) -> Json:
    """The value as plain JSON for details; what is not plain is shown as text."""
    value = _plain(value)
    if depth and isinstance(value, Mapping):
        return {str(key): as_json(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [as_json(item, depth - 1) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _shown(value)


def item_of(value: Any, index: int, count: int) -> Json:
    """A sample's share of a column that belongs to a batch: its item, or the whole."""
    plain = _plain(value)
    if isinstance(plain, list | tuple) and len(plain) == count:
        return as_json(plain[index])
    return as_json(plain)


def _plain(value: Any) -> Any:
    """Lists and numbers out of tensors and arrays; they are known by their `tolist`."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def _shown(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
