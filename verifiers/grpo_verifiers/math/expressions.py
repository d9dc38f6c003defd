"""Equality of expressions, by evaluating both: exactly if they are rational, else to many digits.

Simplification is a search that need not end, so nothing is simplified. Two constants are equal if
they agree to far more digits than can cancel between them; two expressions with variables, if they
agree at several points (Schwartz-Zippel). Imports mpmath: load it on demand.
"""

from __future__ import annotations

import math
import random
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from grpo_verifiers.math.arithmetic import Value
from grpo_verifiers.math.evaluation import UNDEFINED, Evaluation, Point
from grpo_verifiers.math.limits import (
    MAX_EXTRA_DIGITS,
    AnswerError,
    AnswerTooLarge,
    Budget,
    NotEvaluated,
)
from grpo_verifiers.math.parser import parse
from grpo_verifiers.math.rewriting import rearranged
from grpo_verifiers.math.syntax import Call, Expression, symbols, walk

DIGITS = 40  # of the first evaluation
FINE_DIGITS = 70  # of the second, beside those that may cancel
AGREE_DIGITS = 40  # behind the smallest number on the way, at which equal values must agree
MAX_EXTRA_WITH_VARIABLES = 100
_STEPS = (2, 5, 10, 25, 50, 100, 200, 350, 500, 750, 1000)  # digits that may cancel, rounded up
MIN_POINTS = 3  # at which both expressions must be defined
# Where variables are put, in 64ths: between 0 and 1, between 1 and 4, and of both signs.
_RANGES = (
    (5, 60, 1),
    (66, 200, 1),
    (5, 60, 1),
    (66, 200, 1),
    (70, 999, 1),
    (9, 99, -1),
    (9, 99, -1),
)

_INTEGER_POINTS = (1, 3)  # for floor and ceiling, which differ by one nearly everywhere else

_local = threading.local()


@dataclass(frozen=True, slots=True)
class Closeness:
    """How far two numbers may lie apart and still be equal.

    Attributes:
        relative: to the reference.
        absolute: whatever the reference.
    """

    relative: Fraction = Fraction(0)
    absolute: Fraction = Fraction(0)


EXACTLY = Closeness()


def check_expression(text: str, budget: Budget) -> None:
    """Read and evaluate an expression.

    Raises:
        AnswerError: if it cannot be read, is too large, or is defined nowhere.
    """
    try:
        tree = parse(text)
        if all(_value(tree, point, DIGITS, budget) is None for point in _points(tree)):
            raise AnswerError("the expression has no value")
    except NotEvaluated:
        return  # it can still be compared by its form


def same_value(first: str, second: str, budget: Budget, close: Closeness = EXACTLY) -> bool:
    """Whether two expressions are equal wherever both are real numbers.

    Raises:
        AnswerError: if one cannot be read or is too large to evaluate.
    """
    return same_tree(parse(first), parse(second), budget, close)


def same_tree(
    first: Expression, second: Expression, budget: Budget, close: Closeness = EXACTLY
) -> bool:
    """Whether two trees are equal wherever both are real numbers; see `same_value`."""
    if first == second or rearranged(first) == rearranged(second):
        return True
    real = other = 0
    points = _points(first, second)
    for point in points:
        outcome = _agree(first, second, point, budget, close)
        if outcome is None:
            continue
        agree, is_real = outcome
        if is_real and not agree:
            return False
        real += is_real
        other += agree if not is_real else -len(points)
    needed = MIN_POINTS if len(points) > 1 else 1
    return real >= needed or (real == 0 and other >= needed)


def ratio(first: Expression, second: Expression, budget: Budget) -> Value | None:
    """The constant real number that `second` is times `first`, or None.

    Raises:
        AnswerError: if one is too large to evaluate.
    """
    factors: list[Value] = []
    for point in _points(first, second):
        rough = [_value(tree, point, DIGITS, budget) for tree in (first, second)]
        if rough[0] is None or rough[1] is None:
            continue
        extra = min(max(rough[0][1], rough[1][1]), MAX_EXTRA_WITH_VARIABLES)
        fine = [_value(tree, point, FINE_DIGITS + 2 * extra, budget) for tree in (first, second)]
        if fine[0] is None or fine[1] is None:
            continue
        a, b = fine[0][0], fine[1][0]
        if not (_is_real(a) and _is_real(b)):
            continue
        if _tiny(a) or _tiny(b):
            return None
        exact = isinstance(a, Fraction) and isinstance(b, Fraction)
        factor = b / a if exact else _context().re(_number(b) / _number(a))
        if factors and not _same_factor(factors[0], factor, extra):
            return None
        factors.append(factor)
    return factors[0] if len(factors) >= MIN_POINTS else None


def _same_factor(first: Value, second: Value, extra: int) -> bool:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    gap = abs(_number(first) - _number(second))
    return bool(gap <= abs(_number(first)) * _context().mpf(10) ** -(AGREE_DIGITS + extra))


def proportion(gold: tuple[str, str], candidate: tuple[str, str], budget: Budget) -> int:
    """How two equations or inequalities, each a left and a right side, are related.

    Returns:
        1 or -1 if left minus right of one is a positive or negative multiple of the other, else 0.

    Raises:
        AnswerError: if a side cannot be read, or is too large to evaluate.
    """
    first, second = (
        Call("add", (parse(left), Call("neg", (parse(right),))))
        for left, right in (gold, candidate)
    )
    factor = ratio(first, second, budget)
    return 0 if factor is None else 1 if factor > 0 else -1


def real_constant(text: str, budget: Budget) -> float | None:
    """A rough value of an expression without variables, for putting numbers in order.

    Raises:
        AnswerError: if it cannot be read or is too large to evaluate.
    """
    tree = parse(text)
    if symbols(tree):
        return None
    value = _value(tree, {}, DIGITS, budget)
    if value is None or not _is_real(value[0]):
        return None
    return float(_context().re(_number(value[0])))


def _context() -> Any:
    # One a thread: mpmath keeps the precision in its context.
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
    return _local.context


def _number(value: Value) -> Any:
    context = _context()
    return (
        context.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value
    )


def _is_real(value: Value) -> bool:
    return isinstance(value, Fraction) or bool(_context().im(value) == 0)


def _tiny(value: Value) -> bool:
    return bool(abs(_number(value)) < _context().mpf(10) ** -AGREE_DIGITS)


def _points(*trees: Expression) -> list[Point]:
    """Where to evaluate: values for all variables, the same ones whenever the names are the same.

    The bounds of sums are put to integers.
    """
    names = sorted(set().union(*(symbols(tree) for tree in trees)))
    if not names:
        return [{}]
    integers = set().union(*(_bound_names(tree) for tree in trees))
    rounds = any(_is_rounding(part) for tree in trees for part in walk(tree))
    generator = random.Random(zlib.crc32(" ".join(names).encode()))
    points: list[Point] = []
    for number, (low, high, sign) in enumerate(_RANGES):
        point = {}
        for position, name in enumerate(names):
            value = Fraction(generator.randrange(low, high) * 2 + 1, 128)
            if name in integers or (rounds and number in _INTEGER_POINTS):
                value = Fraction(generator.randrange(3, 9))
            elif sign < 0:
                value *= (-1) ** (position + number + 1)
            point[name] = value
        points.append(point)
    return points


def _is_rounding(part: Expression) -> bool:
    return isinstance(part, Call) and part.name in ("floor", "ceil")


def _bound_names(tree: Expression) -> Iterator[str]:
    for part in walk(tree):
        if isinstance(part, Call) and part.name in ("sum", "prod"):
            yield from symbols(part.args[1]) | symbols(part.args[2])


def _value(tree: Expression, point: Point, digits: int, budget: Budget) -> tuple[Value, int] | None:
    """The value at a point and the digits that may have cancelled; None where it is undefined."""
    evaluation = Evaluation(_context(), digits, point, budget)
    try:
        return evaluation.value(tree), _digits_of(evaluation.bits)
    except AnswerError:
        raise
    except UNDEFINED:
        return None


def _digits_of(bits: int) -> int:
    """Decimal digits that may cancel; few different numbers, as mpmath keeps tables for each."""
    digits = math.ceil(bits * math.log10(2))
    return next((step for step in _STEPS if digits <= step), digits)


def _agree(
    first: Expression, second: Expression, point: Point, budget: Budget, close: Closeness
) -> tuple[bool, bool] | None:
    """Whether the values at a point agree, and whether they are real; None where undefined."""
    one, other = (_value(tree, point, DIGITS, budget) for tree in (first, second))
    if one is None or other is None:
        return None
    (a, extra_a), (b, extra_b) = one, other
    is_real = _is_real(a) and _is_real(b)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return abs(a - b) <= max(abs(a) * close.relative, close.absolute), True
    context = _context()
    allowed = max(abs(_number(a)) * _number(close.relative), _number(close.absolute))
    gap = abs(_number(a) - _number(b))
    extra = max(extra_a, extra_b)
    if gap <= allowed and allowed:
        return True, is_real
    certain = 2 * extra + 10 - DIGITS
    if certain < -5 and gap > allowed + context.mpf(10) ** certain:
        return False, is_real
    return _agree_finely(first, second, point, budget, extra), is_real


def _agree_finely(
    first: Expression, second: Expression, point: Point, budget: Budget, extra: int
) -> bool:
    if not point and extra > MAX_EXTRA_DIGITS:
        raise AnswerTooLarge("the answer takes too many digits to evaluate")
    kept = min(extra, MAX_EXTRA_WITH_VARIABLES) if point else extra
    values = [_value(tree, point, FINE_DIGITS + 2 * kept, budget) for tree in (first, second)]
    if values[0] is None or values[1] is None:
        return False
    a, b = _number(values[0][0]), _number(values[1][0])
    limit = _context().mpf(10) ** -(AGREE_DIGITS + kept)
    return bool(abs(a - b) <= max(limit, max(abs(a), abs(b)) * limit if kept < extra else 0))
