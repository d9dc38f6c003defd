r"""Canonical text -> tokens of an expression, each a kind and a text.

Kinds: `number` (3, 1,234, .5), `letter`, `command` (without its backslash), `name` (the words of a
`\text{}`), `sign` (everything else that has a meaning), and `end`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from grpo_verifiers.math.limits import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_TOKENS,
    AnswerError,
    AnswerTooLarge,
)

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<number>[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
  | (?P<letter>[A-Za-z])
  | \\(?:text|mathbb|mathcal|mathfrak|mathscr)\s*\{\s*(?P<name>[A-Za-z][A-Za-z ]*?)\s*\}
  | \\(?P<command>[A-Za-z]+)
  | (?P<sign>[-+*/^_(){}\[\]|!°%',=]|\\\|)
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of an expression."""

    kind: str
    text: str


def tokenize(text: str) -> list[Token]:
    """The tokens of a canonical text, with an `end` token behind them.

    Raises:
        AnswerError: at a character that has no meaning in an expression.
        AnswerTooLarge: if there are too many tokens, or a number is too long.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise AnswerError(f"{text[position]!r} has no meaning in an expression")
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(Token(kind, match[kind]))
        if kind == "number" and len(match[kind]) > MAX_DIGITS:
            raise AnswerTooLarge(f"a number has more than {MAX_DIGITS} digits")
        position = match.end()
    if len(tokens) > MAX_TOKENS:
        raise AnswerTooLarge(f"an expression has {len(tokens)} parts, more than {MAX_TOKENS}")
    tokens.append(Token("end", ""))
    return tokens


class TokenStream:
    """Tokens that are taken one by one."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    @property
    def next(self) -> Token:
        """The next token, which stays."""
        return self._tokens[self._position]

    @property
    def previous(self) -> Token:
        """The token that was taken last."""
        return self._tokens[self._position - 1]

    def ahead(self, count: int) -> list[Token]:
        """The next tokens, at most `count`."""
        return self._tokens[self._position : self._position + count]

    def take(self, count: int = 1) -> Token:
        """Take tokens; the last one is returned. The end is never passed."""
        last = len(self._tokens) - 1
        token = self._tokens[min(self._position + count - 1, last)]
        self._position = min(self._position + count, last)
        return token

    def at(self, *texts: str) -> bool:
        """Whether one of these signs comes next."""
        return self.next.kind == "sign" and self.next.text in texts

    def at_command(self, *names: str) -> bool:
        """Whether one of these commands comes next."""
        return self.next.kind == "command" and self.next.text in names

    def skip(self, *texts: str) -> bool:
        """Take the next token if it is one of these signs."""
        found = self.at(*texts)
        if found:
            self._position += 1
        return found

    def expect(self, text: str) -> None:
        """Take a sign that must come next.

        Raises:
            AnswerError: if it does not.
        """
        if not self.skip(text):
            raise AnswerError(f"{text!r} was expected before {self.next.text!r}")

    def descend(self) -> None:
        """Note that the parser calls itself; `ascend` when it is back.

        Raises:
            AnswerTooLarge: if it is too deep in itself.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise AnswerTooLarge(f"an expression is nested deeper than {MAX_DEPTH} levels")

    def ascend(self) -> None:
        """The parser returned from a call of itself."""
        self._depth -= 1
