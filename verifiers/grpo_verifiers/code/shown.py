"""Values and texts as verdicts show them: short, and fit for JSON, a log and a terminal."""

from __future__ import annotations

import reprlib
from typing import Any

MAX_SHOWN = 200  # characters of one value
MAX_EXCERPT = 1_000  # characters of stdout or stderr in a verdict's details

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxdict = 10
_SHORT.maxlevel = 4


def shown(value: Any) -> str:
    """A value of builtin types as Python writes it, shortened."""
    return shorten(_SHORT.repr(value))


def shorten(text: str, limit: int = MAX_SHOWN) -> str:
    """A text of at most `limit` characters that can be encoded and printed."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return printable(text)


def excerpt(output: bytes) -> str:
    """The end of what a program wrote, where its error stands."""
    text = output[-4 * MAX_EXCERPT :].decode("utf-8", "replace").strip()
    return printable(text if len(text) <= MAX_EXCERPT else "…" + text[1 - MAX_EXCERPT :])


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text
    )
