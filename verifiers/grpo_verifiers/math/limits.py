r"""What an answer may cost: limits that are checked on the text, before anything is computed.

They are far above what a real answer needs and far below what hurts: `9^{9^9}`, `(10^9)!!!!`, or
two hundred nested roots are refused in microseconds. What is computed after that is charged to a
`Budget`, so that the cost of a verdict is bounded whatever the text. The deadline of the worker
process is the last defence, not the first.
"""

from __future__ import annotations

import re

MAX_COMPLETION_CHARS = 50_000  # of the end of a completion, where the answer is
MAX_ANSWER_CHARS = 2_000
MAX_NESTING = 24  # of brackets in an answer
MAX_TOKENS = 600  # of one expression
MAX_DEPTH = 50  # of the calls the parser makes of itself
MAX_DIGITS = 400  # of one number
MAX_DECIMAL_EXPONENT = 400  # of scientific notation
MAX_ITEMS = 32  # of a set, list, tuple, or row

MAX_EXACT_BITS = 100_000  # of a fraction, numerator and denominator together
MAX_MAGNITUDE = 100_000  # of the binary exponent of any intermediate result
MAX_EXTRA_DIGITS = 1_000  # of precision, added where large and small numbers meet
MAX_FACTORIAL = 10_000
MAX_ARGUMENT_BITS = 1_000  # of the argument of a sine and its like
MAX_GROWING_BITS = 17  # of the argument of a function that grows as fast as a power of e
MAX_TERMS = 2_000  # of a sum or product
BUDGET = 200_000  # of a verdict, in microseconds of an ordinary processor

_BRACKETS = re.compile(r"\\[{}]|[(){}\[\]]")


class AnswerError(ValueError):
    """A text that cannot be read as an answer."""


class AnswerTooLarge(AnswerError):
    """An answer that could be read but is refused for what evaluating it might cost."""


class NotEvaluated(AnswerError):
    """An expression that can be read, but has no value that could be computed."""


class Budget:
    """What may still be spent on a verdict.

    Costs are estimated from the sizes of numbers, never measured, so that verdicts do not depend on
    the load of a machine.
    """

    def __init__(self, units: float = BUDGET) -> None:
        self._left = units

    def spend(self, units: float) -> None:
        """Pay for work that is about to be done.

        Raises:
            AnswerTooLarge: if nothing is left.
        """
        self._left -= units
        if self._left < 0:
            raise AnswerTooLarge("evaluating the answer would take too long")


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
