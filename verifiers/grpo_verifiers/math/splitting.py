"""Cutting a canonical text at signs that are inside no bracket."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_TOKEN = re.compile(
    r"\\(?:begin|end)\{[a-zA-Z]+\*?\}|\\[a-zA-Z]+|\\.|[(){}\[\],;:=<>&+*/-]", re.DOTALL
)
_OPENING = frozenset([r"\{", "(", "[", "{"])
_CLOSING = frozenset([r"\}", ")", "]", "}"])


def top_tokens(text: str) -> Iterator[re.Match[str]]:
    """The signs and commands of `text` that are inside no bracket."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING or token.startswith(r"\begin{"):
            depth += 1
        elif token in _CLOSING or token.startswith(r"\end{"):
            depth -= 1
        elif depth == 0:
            yield match


def split(text: str, separators: Sequence[str]) -> list[str]:
    """Cut `text` at separators that are inside no bracket."""
    pieces, start = [], 0
    for match in top_tokens(text):
        if match.group() in separators:
            pieces.append(text[start : match.start()])
            start = match.end()
    return [piece.strip() for piece in [*pieces, text[start:]]]


def closes_at_end(text: str) -> bool:
    """Whether the bracket that `text` begins with is closed by its last character."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0:
            return match.end() == len(text)
    return False
