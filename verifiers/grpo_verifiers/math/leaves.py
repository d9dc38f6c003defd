"""Whether two single answers are equal: numbers exactly, words as words, the rest by evaluation.

Only what is left at the end needs `expressions`, which is imported on first use: arithmetic tasks
load no mathematics library.
"""

from __future__ import annotations

import importlib
import re
from fractions import Fraction
from typing import Any

from grpo_verifiers.math.config import MathConfig
from grpo_verifiers.math.exact import Quantity, read_based, read_quantity, same_quantity
from grpo_verifiers.math.limits import AnswerError, Budget
from grpo_verifiers.math.parser import parse
from grpo_verifiers.math.rewriting import in_radians, renamed, scaled
from grpo_verifiers.math.syntax import Expression, Number
from grpo_verifiers.math.units import split_unit
from grpo_verifiers.math.words import clock, number_word, same_time, words

_SPACES = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_NAME = re.compile(
    r"\\(?:mathbb|overline|vec|angle|triangle)\s*(?:[A-Za-z]{1,4}|\{[A-Za-z]{1,4}\})(?:\^\{?[-+*]\}?)?"
)
_INFINITY = re.compile(r"[+-]?\s*\\infty")
_DECIMAL_COMMA = re.compile(r"[+-]?(?!0*[1-9][0-9]{0,2},[0-9]{3}$)[0-9]+,[0-9]+")
_NONE = Fraction(0)
_MIN_ROUNDED_PLACES = 2


class LeafComparison:
    """Compares leaves of answers under the options.

    Attributes:
        stage: what the last decision took: "exact", "numeric" (agreement to many digits at several
            points) or "symbolic" (a proof).
    """

    def __init__(self, config: MathConfig) -> None:
        self.config = config
        self.budget = Budget()
        self.stage = "exact"

    def equal(self, gold: str, candidate: str) -> bool:
        """Whether two leaves are equal.

        Raises:
            AnswerError: if an expression cannot be read, or is too large to evaluate.
        """
        if gold == candidate or compact(gold) == compact(candidate):
            return True
        decided = self._equal_exactly(gold, candidate)
        return self._equal_by_value(gold, candidate) if decided is None else decided

    @property
    def _tolerance(self) -> Fraction:
        tolerance = self.config.tolerance
        return Fraction(str(tolerance)) if tolerance else _NONE

    def check_readable(self, text: str) -> None:
        """Read a leaf of a reference.

        Raises:
            AnswerError: if it is neither a number nor words nor an expression with a value.
        """
        known: object = read_quantity(text) or read_based(text) or words(text) or clock(text)
        if not (known or _INFINITY.fullmatch(text) or _NAME.fullmatch(text)):
            expressions().check_expression(split_unit(text)[0], self.budget)

    def same_number(self, gold: Quantity, candidate: Quantity) -> bool:
        """Whether two numbers are equal under the options."""
        config = self.config
        return same_quantity(
            gold,
            candidate,
            percent=config.percent,
            tolerance=self._tolerance,
            require_units=config.units == "required",
        ) or (gold.places >= _MIN_ROUNDED_PLACES and self._rounds(gold, candidate))

    def _equal_exactly(self, gold: str, candidate: str) -> bool | None:
        """Decide numbers and words; None where it takes an evaluation."""
        bases = read_based(gold), read_based(candidate)
        if bases[0] and bases[1]:
            return bases[0] == bases[1]
        if bases[1] and bases[1].base == 10:
            return self._equal_exactly(gold, bases[1].digits)
        if bases[0]:
            optional = self.config.base == "optional"
            return optional and bases[0].digits == candidate.upper().lstrip("0")
        first, second = read_quantity(gold), read_quantity(candidate)
        if first and second:
            return self.same_number(first, second)
        if (first or second) and (word := number_word(candidate if first else gold)):
            other = read_quantity(word)
            quantity = first or second
            return other is not None and quantity is not None and other.value == quantity.value
        if _INFINITY.fullmatch(gold) or _INFINITY.fullmatch(candidate):
            return compact(gold).lstrip("+") == compact(candidate).lstrip("+")
        times = clock(gold), clock(candidate)
        if times[0] and times[1]:
            return same_time(times[0], times[1])
        texts = words(gold), words(candidate)
        if texts[0] or texts[1]:
            return texts[0] == texts[1]
        if _NAME.fullmatch(gold) or _NAME.fullmatch(candidate):
            return False  # \mathbb{R} and the like equal nothing but themselves
        return None

    def _rounds(self, gold: Quantity, candidate: Quantity) -> bool:
        """Whether a fraction rounds to a decimal reference; a decimal has to be equal."""
        if _terminates(candidate.value) or gold.percent or candidate.percent:
            return False
        return abs(gold.value - candidate.value) <= self._rounding(gold)

    def _rounding(self, gold: Quantity | None) -> Fraction:
        """Half a unit of the last place of a rounded reference, or 0."""
        if gold is None or gold.places < _MIN_ROUNDED_PLACES or self.config.approximate == "never":
            return Fraction(0)
        return Fraction(1, 2 * 10**gold.places)

    def _equal_by_value(self, gold: str, candidate: str) -> bool:
        self.stage = "numeric"
        (first, unit), (second, other_unit) = split_unit(gold), split_unit(candidate)
        if unit and other_unit and unit.dimension != other_unit.dimension:
            return False
        if unit and not other_unit and self.config.units == "required":
            return False
        trees = [_tree(first), _tree(second)]
        if unit and other_unit and unit != other_unit:
            trees[1] = scaled(trees[1], other_unit.factor / unit.factor)
        if self.config.degrees == "angle" and ("°" in gold) != ("°" in candidate):
            trees["°" in candidate] = in_radians(trees["°" in candidate])
        if self.config.variables == "any":
            trees[1] = renamed(trees[1], trees[0])
        rounding = self._rounding(read_quantity(gold))
        close = self._tolerance, rounding if _is_exact(candidate) else Fraction(0)
        module = expressions()
        if not module.same_tree(*trees, self.budget, module.Closeness(*close)):
            return False
        decided = None if any(close) else symbolic().proved(*trees, self.budget)
        if decided is not None:
            self.stage = "symbolic"
        return decided is not False


def _tree(text: str) -> Expression:
    """The tree of an expression; a number such as 1e-3 is read as it is elsewhere."""
    quantity = read_quantity(text)
    if quantity is None or quantity.percent:
        return parse(text)
    return Number(quantity.value)


def compact(text: str) -> str:
    """A text without its spaces and without marks of what is text, for comparing spellings."""
    return _SPACES.sub("", _TEXT.sub(r"\1", text))


def decimal_comma(text: str) -> Quantity | None:
    """The number that digits with a comma in between are in many countries: 2,74 is 2.74."""
    return read_quantity(text.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(text) else None


def expressions() -> Any:
    """The module that evaluates, which loads mpmath."""
    return importlib.import_module("grpo_verifiers.math.expressions")


def symbolic() -> Any:
    """The module that proves, which loads sympy."""
    return importlib.import_module("grpo_verifiers.math.symbolic")


def constant(text: str, budget: Budget) -> float | None:
    """A rough value of a real constant, infinity included; None for anything else."""
    if _INFINITY.fullmatch(text):
        return float("-inf") if text.startswith("-") else float("inf")
    if quantity := read_quantity(text):
        return float(quantity.value)
    try:
        return expressions().real_constant(text, budget)
    except AnswerError:
        return None


def _is_exact(text: str) -> bool:
    """Whether an expression is written exactly, without decimals, so that it may be rounded."""
    return re.search(r"[0-9]\.[0-9]", text) is None


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
