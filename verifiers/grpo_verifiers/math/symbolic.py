"""Equality of expressions, by evaluating both at high precision. Imports sympy: load it on demand.

Simplification is a search that need not end, so nothing is simplified. Two constants are equal if
they agree to many digits at two precisions; two expressions with variables, if they agree at
several points (Schwartz-Zippel). Every step costs a bounded amount: numbers whose logarithm is
large are refused, not computed.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath
import sympy

from grpo_verifiers.math.limits import AnswerError, AnswerTooLarge
from grpo_verifiers.math.parsing import read_expression

DIGITS = 50  # of the first evaluation; the second has twice as many
MAX_EXTRA_DIGITS = 400  # added for constants whose literals are long
MAX_MAGNITUDE = 100_000  # of the binary exponent of any intermediate result
MAX_FACTORIAL = 20_000
MAX_ARGUMENT_BITS = 1_000  # of the argument of a sine and its like
NUM_POINTS = 6
MIN_POINTS = 3  # at which both expressions must be defined

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    sympy.sin: mpmath.sin,
    sympy.cos: mpmath.cos,
    sympy.tan: mpmath.tan,
    sympy.cot: mpmath.cot,
    sympy.sec: mpmath.sec,
    sympy.csc: mpmath.csc,
    sympy.asin: mpmath.asin,
    sympy.acos: mpmath.acos,
    sympy.atan: mpmath.atan,
    sympy.sinh: mpmath.sinh,
    sympy.cosh: mpmath.cosh,
    sympy.tanh: mpmath.tanh,
    sympy.Abs: mpmath.fabs,
    sympy.floor: mpmath.floor,
    sympy.ceiling: mpmath.ceil,
}
_OPERATIONS = (
    sympy.Add,
    sympy.Mul,
    sympy.Pow,
    sympy.exp,
    sympy.log,
    sympy.factorial,
    sympy.binomial,
    *_FUNCTIONS,
)
_CONSTANTS = {sympy.pi: mpmath.pi, sympy.E: mpmath.e, sympy.I: mpmath.mpc(0, 1)}
# What mpmath raises where a function is not defined: 1/0, log(0), a gamma function at its poles.
_UNDEFINED = (ZeroDivisionError, ValueError, OverflowError)

Equation = tuple[str, str]

# Expressions that take the parser through the common parts of its grammar.
_WARM_UP = (
    r"\frac{\sqrt{2}}{2}+x^{2}-3x",
    r"(x+1)(x-1)\cdot 2\pi",
    r"\log_{2}{8}-\ln x+e^{x}",
    r"\sin(2x)\cos^{2} x+\tan \theta",
    r"2|x-1|-\binom{5}{2}",
    r"-\frac{1}{2}x+\sqrt[3]{x^{2}+1}",
)


def warm_up() -> None:
    """Fill the parser's caches, which forked workers share: first parses are the slow ones."""
    for text in _WARM_UP:
        check_expression(text)


def check_expression(text: str) -> None:
    """Read and evaluate an expression once.

    Raises:
        AnswerError: if it cannot be read, is too large, or is defined nowhere.
    """
    expression = read_expression(text)
    if all(value is None for value in _values(expression, _points([expression]), DIGITS)):
        raise AnswerError("the expression has no value")


def same_value(gold: str, candidate: str, tolerance: Fraction) -> bool:
    """Whether two expressions are equal wherever both are real numbers.

    Raises:
        AnswerError: if one cannot be read or is too large to evaluate.
    """
    first, second = read_expression(gold), read_expression(candidate)
    if first == second:
        return True
    points = _points([first, second])
    digits = DIGITS if points[0] else DIGITS + _extra_digits(first, second)
    rough = _pairs(first, second, points, digits)
    fine = _pairs(first, second, points, 2 * (digits))
    defined = [(a, b) for a, b in zip(rough, fine, strict=True) if a is not None and b is not None]
    if len(defined) < (MIN_POINTS if points[0] else 1):
        return False
    return all(_agree(a, b, digits, tolerance) for a, b in defined)


def same_equation(gold: Equation, candidate: Equation) -> bool:
    """Whether one equation, left minus right, is a constant multiple of the other.

    Raises:
        AnswerError: if a side cannot be read or is too large to evaluate.
    """
    first, second = (
        _minus(read_expression(left), read_expression(right)) for left, right in (gold, candidate)
    )
    points = _points([first, second])
    pairs = [pair for pair in _pairs(first, second, points, DIGITS) if pair is not None]
    if len(pairs) < MIN_POINTS or any(abs(value) < 1e-30 for pair in pairs for value in pair):
        return False
    with mpmath.workdps(DIGITS):
        factor = pairs[0][1] / pairs[0][0]
        return all(abs(b - factor * a) <= abs(b) * mpmath.mpf(10) ** -30 for a, b in pairs)


def _minus(left: Any, right: Any) -> Any:
    # Unevaluated throughout: `-right` would compute 9^{9^9} where `right` contains it.
    return sympy.Add(left, sympy.Mul(sympy.Integer(-1), right, evaluate=False), evaluate=False)


def _extra_digits(*expressions: Any) -> int:
    """Digits needed so that a literal like 10^{-60} in a sum is not rounded away."""
    digits = 0
    for expression in expressions:
        for node in sympy.preorder_traversal(expression):
            if isinstance(node, sympy.Rational):
                digits += len(str(node.p)) + len(str(node.q))
            elif isinstance(node, sympy.Pow) and isinstance(node.exp, sympy.Integer):
                digits += abs(int(node.exp))
            if digits > MAX_EXTRA_DIGITS:
                return MAX_EXTRA_DIGITS
    return digits


def _points(expressions: Sequence[Any]) -> list[dict[Any, Fraction]]:
    """Where to evaluate: values for all variables, the same ones whenever the names are the same.

    All values are positive at the first points, where most identities of school hold, and of both
    signs at the last two.
    """
    symbols = sorted(set().union(*(e.free_symbols for e in expressions)), key=lambda s: str(s.name))
    if not symbols:
        return [{}]
    seed = zlib.crc32(" ".join(symbol.name for symbol in symbols).encode())
    generator = random.Random(seed)
    points = []
    for index in range(NUM_POINTS):
        point = {s: Fraction(generator.randrange(2_000, 30_000), 10_007) for s in symbols}
        if index >= NUM_POINTS - 2:
            point = {s: value * (-1) ** (n + index) for n, (s, value) in enumerate(point.items())}
        points.append(point)
    return points


def _pairs(
    first: Any, second: Any, points: Sequence[Mapping[Any, Fraction]], digits: int
) -> list[tuple[Any, Any] | None]:
    """Both values at each point; None where one is undefined or, at negative points, not real."""
    pairs: list[tuple[Any, Any] | None] = []
    columns = zip(
        points, _values(first, points, digits), _values(second, points, digits), strict=True
    )
    for point, a, b in columns:
        undefined = a is None or b is None
        positive = all(value > 0 for value in point.values())
        if undefined or not (positive or (_is_real(a) and _is_real(b))):
            pairs.append(None)
        else:
            pairs.append((a, b))
    return pairs


def _is_real(value: Any) -> bool:
    return bool(mpmath.im(value) == 0)


def _agree(rough: tuple[Any, Any], fine: tuple[Any, Any], digits: int, tolerance: Fraction) -> bool:
    """Whether two numbers are equal, each given at `digits` and at twice as many digits."""
    zeros = [_is_zero(a, b, digits) for a, b in zip(rough, fine, strict=True)]
    if any(zeros):
        return all(zeros)
    allowed = max(mpmath.mpf(10) ** (10 - digits), _number(tolerance))
    return bool(abs(fine[0] - fine[1]) <= abs(fine[0]) * allowed)


def _is_zero(rough: Any, fine: Any, digits: int) -> bool:
    """A number that shrinks with the precision is what cancellation left of zero."""
    if rough == 0:
        return bool(abs(fine) < mpmath.mpf(10) ** (-3 * digits // 2))
    return bool(abs(fine) < abs(rough) * mpmath.mpf(10) ** (-digits // 2))


def _values(expression: Any, points: Sequence[Mapping[Any, Fraction]], digits: int) -> list[Any]:
    """The expression at each point, None where it is not defined."""
    values = []
    with mpmath.workdps(digits):
        for point in points:
            try:
                values.append(_evaluate(expression, point))
            except _UNDEFINED as error:
                if isinstance(error, AnswerError):
                    raise
                values.append(None)
    return values


def _number(value: Fraction) -> Any:
    return mpmath.mpf(value.numerator) / value.denominator


def _evaluate(node: Any, point: Mapping[Any, Fraction]) -> Any:
    if isinstance(node, sympy.Symbol):
        return _number(point[node])
    if isinstance(node, sympy.Rational):
        return mpmath.mpf(node.p) / node.q
    if node in _CONSTANTS:
        return +_CONSTANTS[node]
    if not isinstance(node, _OPERATIONS):  # a derivative, an undefined function, nan, infinity
        raise AnswerError(f"{type(node).__name__} is not evaluated")
    arguments = [_evaluate(argument, point) for argument in node.args]
    value = _apply(node, arguments)
    if value != 0 and abs(mpmath.mag(value)) > MAX_MAGNITUDE:
        raise AnswerTooLarge("a number in the expression is too large to evaluate")
    return value


def _apply(node: Any, arguments: Sequence[Any]) -> Any:
    """The value of one operation."""
    if isinstance(node, sympy.Add):
        return mpmath.fsum(arguments)
    if isinstance(node, sympy.Mul):
        return mpmath.fprod(arguments)
    if isinstance(node, sympy.Pow):
        return _power(node, *arguments)
    if isinstance(node, sympy.exp):
        return _power(node, mpmath.e, arguments[0])
    if isinstance(node, sympy.log):
        value = mpmath.log(arguments[0])
        return value / mpmath.log(arguments[1]) if len(arguments) == 2 else value
    if isinstance(node, sympy.factorial | sympy.binomial):
        if any(abs(argument) > MAX_FACTORIAL for argument in arguments):
            raise AnswerTooLarge(f"the argument of a {type(node).__name__} is too large")
        return getattr(mpmath, type(node).__name__)(*arguments)
    if mpmath.mag(arguments[0]) > MAX_ARGUMENT_BITS:
        raise AnswerTooLarge(f"the argument of {type(node).__name__} is too large")
    return _FUNCTIONS[type(node)](arguments[0])


def _power(node: Any, base: Any, exponent: Any) -> Any:
    """A power; odd roots of negative numbers are real, as in school."""
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise ZeroDivisionError
        return mpmath.mpf(0)
    if abs(exponent) * max(abs(mpmath.log(abs(base), 2)), 1) > MAX_MAGNITUDE:
        raise AnswerTooLarge("a power in the expression is too large to evaluate")
    power = node.args[-1]
    if isinstance(power, sympy.Rational) and power.q % 2 and _is_real(base) and base < 0:
        return (-1) ** power.p * mpmath.power(-base, exponent)
    return mpmath.power(base, exponent)
