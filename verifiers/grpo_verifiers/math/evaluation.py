r"""The value of an expression: an exact fraction as long as possible, else a number of many digits.

Fractions stay fractions under + - * /, integer powers, perfect roots, factorials and binomials, so
`2^{2020}` and `2^{2020}+1` differ. Everything else is computed by mpmath at a chosen precision.
Each operation is paid for before it is done, and numbers past `limits` are refused, so no
expression takes long, whatever it says.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from grpo_verifiers.math.arithmetic import Arithmetic, Value
from grpo_verifiers.math.limits import (
    MAX_ARGUMENT_BITS,
    MAX_EXACT_BITS,
    MAX_FACTORIAL,
    MAX_GROWING_BITS,
    MAX_TERMS,
    AnswerTooLarge,
    Budget,
    NotEvaluated,
)
from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol

Point = Mapping[str, Fraction]

_GROWING = frozenset(["sinh", "cosh", "tanh", "coth", "sech", "csch"])
_MAX_GAMMA = 2_000  # of the argument of a gamma function that is no integer

# What mpmath raises where a function is not defined: 1/0, log(0), a gamma function at its poles.
UNDEFINED = (ZeroDivisionError, OverflowError, ValueError)

_FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{name: name for name in ("coth", "sech", "csch", "re", "im", "sign")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"ar{name}": f"a{name}" for name in ("sinh", "cosh", "tanh", "coth")},
}


class Evaluation(Arithmetic):
    """One evaluation at one point and one precision."""

    def __init__(self, context: Any, digits: int, point: Point, budget: Budget) -> None:
        super().__init__(context, digits, budget)
        self._point = dict(point)
        # Past a hundred digits mpmath makes a new series for each precision, which is slow.
        self._gamma_cost = (60 if digits <= 100 else 1000) * (digits / 40) ** 2.3

    def value(self, node: Expression) -> Value:
        """The value of an expression.

        Raises:
            AnswerTooLarge: if a number on the way, or the work, is past the limits.
            NotEvaluated: if it has parts that cannot be computed.
            ArithmeticError: where it is not defined.
        """
        if isinstance(node, Number):
            self._note_digits(node.value)
            return self.checked(node.value)
        if isinstance(node, Symbol):
            return self._point[node.name]
        if isinstance(node, Constant):
            return self._constant(node.name)
        if node.name in ("sum", "prod"):
            return self._series(node)
        self._budget.spend(3)
        arguments = [self.value(argument) for argument in node.args]
        name = node.name
        if name.startswith("unknown:"):
            return self._unknown(name, arguments[0])
        return self.checked(_OPERATIONS[name](self, *arguments))

    def _note_digits(self, value: Fraction) -> None:
        """A literal of many digits may differ from another number in the last of them only."""
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        self.bits = max(self.bits, bits)

    def _constant(self, name: str) -> Value:
        if name == "pi":
            return +self._context.pi
        if name == "e":
            return +self._context.e
        if name == "i":
            return self._point["i"] if "i" in self._point else self._context.mpc(0, 1)
        raise NotEvaluated("an infinity inside an expression is not evaluated")

    def function(self, name: str, value: Value) -> Value:
        """A function of mpmath."""
        self._budget.spend(self._cost)
        number = self.number(value)
        grows = name in _GROWING or self._context.im(number) != 0
        limit = MAX_GROWING_BITS if grows else MAX_ARGUMENT_BITS
        if number != 0 and self._context.mag(number) > limit:
            raise AnswerTooLarge(f"the argument of {name} is too large")
        return getattr(self._context, name)(number)

    def absolute(self, value: Value) -> Value:
        """Its absolute value."""
        return abs(value)

    def rounded(self, value: Value, down: bool) -> Value:
        """Floor or ceiling; a number next to an integer is taken for that integer."""
        if not isinstance(value, Fraction):
            if self._context.im(value) != 0:
                raise NotEvaluated("complex numbers are not rounded")
            self._budget.spend(self._cost)
            value = self._context.re(value)
            nearest = self._context.nint(value)
            if abs(value - nearest) < self._context.mpf(10) ** (-self._context.dps // 2):
                return Fraction(int(nearest))
            return Fraction(int((self._context.floor if down else self._context.ceil)(value)))
        return Fraction(math.floor(value) if down else math.ceil(value))

    def factorial(self, value: Value) -> Value:
        """A factorial, or a gamma function between the integers."""
        if isinstance(value, Fraction) and value.denominator == 1:
            if value > MAX_FACTORIAL:
                raise AnswerTooLarge("the argument of a factorial is too large")
            if value < 0:
                raise ZeroDivisionError
            self._budget.spend(int(value) / 4)
            return Fraction(math.factorial(int(value)))
        return self.gamma(self.add(value, Fraction(1)))

    def gamma(self, value: Value) -> Value:
        """The gamma function."""
        if isinstance(value, Fraction) and value.denominator == 1:
            return self.factorial(value - 1)
        if abs(value) > _MAX_GAMMA:
            raise AnswerTooLarge("the argument of a gamma function is too large")
        self._budget.spend(self._gamma_cost)
        return self._context.gamma(self.number(value))

    def double_factorial(self, value: Value) -> Value:
        """The product n (n-2) (n-4) ..., of natural numbers only."""
        if not isinstance(value, Fraction) or value.denominator != 1:
            raise NotEvaluated("a double factorial of something else than a natural number")
        if value > MAX_FACTORIAL:
            raise AnswerTooLarge("the argument of a factorial is too large")
        if value < 0:
            raise ZeroDivisionError
        self._budget.spend(int(value) / 4)
        return Fraction(math.prod(range(int(value), 1, -2)))

    def binomial(self, top: Value, bottom: Value) -> Value:
        """A binomial coefficient."""
        integers = all(isinstance(v, Fraction) and v.denominator == 1 for v in (top, bottom))
        if integers and top >= 0:
            smaller = min(bottom, top - bottom)
            if smaller < 0:
                return Fraction(0)
            if smaller * int(top).bit_length() > MAX_EXACT_BITS:
                raise AnswerTooLarge("the argument of a binomial is too large")
            self._budget.spend(float(smaller) * int(top).bit_length() / 20)
            return Fraction(math.comb(int(top), int(bottom)))
        if any(abs(value) > _MAX_GAMMA for value in (top, bottom)):
            raise AnswerTooLarge("the argument of a binomial is too large")
        self._budget.spend(3 * self._gamma_cost)
        return self._context.binomial(self.number(top), self.number(bottom))

    def _integers(self, values: tuple[Value, ...]) -> list[int]:
        if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
            raise NotEvaluated("divisors of something else than integers")
        return [int(value) for value in values]

    def divisors(self, values: tuple[Value, ...], function: Callable[..., int]) -> Value:
        """The greatest common divisor or least common multiple."""
        return Fraction(function(*self._integers(values)))

    def extreme(self, values: tuple[Value, ...], function: Callable[..., Any]) -> Value:
        """The largest or smallest of several real numbers."""
        if any(self._context.im(self.number(value)) != 0 for value in values):
            raise NotEvaluated("complex numbers have no order")
        return function(values, key=lambda value: self._context.re(self.number(value)))

    def _unknown(self, name: str, value: Value) -> Value:
        """Some value for a function that nothing is known of, the same for equal arguments."""
        seed = zlib.crc32(name.encode()) % 97 + 3
        return 2 + self.function("cos", self.add(Fraction(seed, 7), value))

    def _series(self, node: Call) -> Value:
        index, first, last, term = node.args
        assert isinstance(index, Symbol)
        start, end = self.value(first), self.value(last)
        low, high = self._integers((start, end))
        if high - low > MAX_TERMS:
            raise AnswerTooLarge(f"a sum or product has more than {MAX_TERMS} terms")
        outer = self._point.get(index.name)
        total: Value = Fraction(0 if node.name == "sum" else 1)
        for step in range(low, high + 1):
            self._point[index.name] = Fraction(step)
            combine = self.add if node.name == "sum" else self.multiply
            total = self.checked(combine(total, self.value(term)))
        if outer is None:
            self._point.pop(index.name, None)
        else:
            self._point[index.name] = outer
        return total


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": Evaluation.add,
    "mul": Evaluation.multiply,
    "div": Evaluation.divide,
    "inverse": lambda e, value: e.divide(Fraction(1), value),
    "neg": lambda e, value: -value,
    "pow": Evaluation.power,
    "root": Evaluation.root,
    "exp": lambda e, value: e.power(e.number(e._context.e), value),
    "log": Evaluation.logarithm,
    "log10": lambda e, value: e.logarithm(value, Fraction(10)),
    "abs": Evaluation.absolute,
    "floor": lambda e, value: e.rounded(value, True),
    "ceil": lambda e, value: e.rounded(value, False),
    "factorial": Evaluation.factorial,
    "double_factorial": Evaluation.double_factorial,
    "gamma": Evaluation.gamma,
    "binomial": Evaluation.binomial,
    "gcd": lambda e, *values: e.divisors(values, math.gcd),
    "lcm": lambda e, *values: e.divisors(values, math.lcm),
    "max": lambda e, *values: e.extreme(values, max),
    "min": lambda e, *values: e.extreme(values, min),
    "cis": lambda e, value: e.function("expj", value),
    **{
        name: (lambda e, value, target=target: e.function(target, value))
        for name, target in _FUNCTIONS.items()
    },
}
