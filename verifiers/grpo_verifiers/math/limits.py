"""What an answer may cost: limits that are checked on the text, before anything is computed.

They are far above what a real answer needs and far below what hurts: `9^{9^9}`, `(10^9)!!!!`, or
two hundred nested roots are refused in microseconds. What slips through is stopped by the deadline
of the worker process.
"""

from __future__ import annotations

import re

MAX_COMPLETION_CHARS = 50_000  # of the end of a completion, where the answer is
MAX_ANSWER_CHARS = 2_000
MAX_EXPRESSION_CHARS = 500  # of one expression given to the symbolic parser
MAX_NESTING = 10  # of brackets in an answer
MAX_EXPRESSION_NESTING = 7  # of brackets in one expression; at 20 the parser takes a minute
MAX_DIGITS = 400  # of one number
MAX_DECIMAL_EXPONENT = 400  # of scientific notation
MAX_ITEMS = 32  # of a set, list, tuple, or row

_BRACKETS = re.compile(r"\\[{}]|[(){}\[\]]")


class AnswerError(ValueError):
    """A text that cannot be read as an answer."""


class AnswerTooLarge(AnswerError):
    """An answer that could be read but is refused for what evaluating it might cost."""


def check_nesting(text: str, limit: int) -> None:
    """Refuse deeply nested brackets.

    Raises:
        AnswerTooLarge: if brackets are nested deeper than `limit` levels.
    """
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket[-1] in "({[" else -1
        if depth > limit:
            raise AnswerTooLarge(f"brackets are nested deeper than {limit} levels")


def check_length(text: str, limit: int) -> None:
    """Refuse long texts.

    Raises:
        AnswerTooLarge: if the text is longer than `limit` characters.
    """
    if len(text) > limit:
        raise AnswerTooLarge(f"the answer has {len(text)} characters, more than {limit}")
