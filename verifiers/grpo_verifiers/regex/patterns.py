"""Compiles a user's regular expressions, and refuses those that backtrack for ever.

Python's engine tries every way to match. A pattern such as `(a+)+$` has exponentially many, so
that a short text takes years. Such patterns are found by trying them on short repetitive texts of
growing length: one that takes 20 ms of processor time for at most 40 repetitions is refused.
Patterns whose time grows with a power of the length are let through; long texts are cut, and what
is left is stopped by the deadline of the worker process.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

Mode = Literal["search", "match", "fullmatch"]

MAX_PATTERN_CHARS = 10_000
_MAX_SECONDS = 0.02  # an ordinary pattern takes microseconds
_REPETITIONS = range(6, 41)
_UNITS = ("a", "0", " ", "A", "-", ".", "a ", "a,", "ab", "0,")
_MAX_UNITS = 20
_ENDS = ("\0", "\n!")
_SYNTAX = re.compile(r"\\.|\(\?[^)]{0,20}[:>)]|\{[0-9, ]*\}|[\\.^$*+?{}\[\]|()]", re.DOTALL)
_BEFORE = re.compile(r"(?:\^|\\[bAB]|\(\?[a-z]+\)|\((?:\?:|\?P<\w+>)?)*")


class PatternError(ValueError):
    """A pattern that cannot be used; the message says why."""


def compile_pattern(pattern: str, ignore_case: bool, mode: Mode) -> re.Pattern[str]:
    """The compiled pattern, tried on texts that would make it backtrack.

    Raises:
        PatternError: if it is empty, no regular expression, or takes exponential time.
    """
    compiled = _compile(pattern, ignore_case, mode)
    if isinstance(compiled, str):
        raise PatternError(compiled)
    return compiled


@lru_cache(maxsize=1024)
def _compile(pattern: str, ignore_case: bool, mode: Mode) -> re.Pattern[str] | str:
    """The compiled pattern, or what is wrong with it: that, too, is worth keeping."""
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        return f"a pattern must have 1 to {MAX_PATTERN_CHARS} characters"
    try:
        compiled = re.compile(pattern, re.IGNORECASE if ignore_case else 0)
    except (re.error, OverflowError, RecursionError) as error:
        return f"{pattern!r:.200} is no regular expression: {error}"
    run: Callable[[str], object] = getattr(compiled, mode)
    for unit, lead, end in _probes(pattern):
        for repetitions in _REPETITIONS:
            text = lead + unit * repetitions + end
            # Twice, because a pause of the garbage collector takes processor time, too.
            if _seconds(run, text) > _MAX_SECONDS and _seconds(run, text) > _MAX_SECONDS:
                return (
                    f"{pattern!r:.200} takes exponential time: more than {_MAX_SECONDS} s on a "
                    f"text of {len(text)} characters, {text!r}. Do not nest repetitions that can "
                    "match the same text: (?:[a-z]+,)* is safe, (?:[a-z]+,?)* is not"
                )
    return compiled


def _probes(pattern: str) -> Iterator[tuple[str, str, str]]:
    """(what is repeated, what comes before it, what comes after it)."""
    letters = dict.fromkeys(_SYNTAX.sub("", pattern))
    units = [*dict.fromkeys((*_UNITS, *letters))][:_MAX_UNITS]
    for lead in dict.fromkeys(("", _literal_start(pattern))):
        for unit in units:
            for end in _ENDS:
                yield unit, lead, end


def _literal_start(pattern: str) -> str:
    """The plain text that a match begins with, as far as that can be seen."""
    rest = pattern[_at_end(_BEFORE, pattern) :]
    syntax = _SYNTAX.search(rest)
    start = rest[: syntax.start()] if syntax else rest
    return start[:-1] if syntax and syntax.group()[0] in "*?{" else start


def _at_end(expression: re.Pattern[str], text: str) -> int:
    match = expression.match(text)
    return match.end() if match else 0


def _seconds(run: Callable[[str], object], text: str) -> float:
    started = time.thread_time()
    run(text)
    return time.thread_time() - started
