r"""Arithmetic on exact fractions as long as possible, else on numbers of many digits.

Each operation is paid for before it is done, and numbers past `limits` are refused.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from grpo_verifiers.math.limits import (
    MAX_EXACT_BITS,
    MAX_MAGNITUDE,
    AnswerTooLarge,
    Budget,
)

Value = Any  # a Fraction, or an mpf or mpc of the context

_MAX_ROOT = 64  # of an exact root


class Arithmetic:
    """The operations at one precision.

    Attributes:
        bits: the largest binary exponent of any number on the way, positive or negative; so many
            bits may cancel.
    """

    def __init__(self, context: Any, digits: int, budget: Budget) -> None:
        self.bits = 0
        self._context = context
        self._budget = budget
        self._cost = 40 * (digits / 40) ** 1.3  # of an elementary function
        context.dps = digits

    def number(self, value: Value) -> Any:
        """A value as a number of the context."""
        if isinstance(value, Fraction):
            return self._context.mpf(value.numerator) / value.denominator
        return value

    def checked(self, value: Value) -> Value:
        """The value itself, after a look at its size."""
        if isinstance(value, Fraction):
            top, bottom = value.numerator.bit_length(), value.denominator.bit_length()
            if top + bottom > MAX_EXACT_BITS:
                raise AnswerTooLarge("a number in the expression is too large to evaluate")
            self._budget.spend((top + bottom) ** 2 * 2e-6)
            bits = abs(top - bottom)
        elif not self._context.isfinite(value):
            raise ZeroDivisionError
        else:
            bits = abs(self._context.mag(value)) if value else 0
            if bits > MAX_MAGNITUDE:
                raise AnswerTooLarge("a number in the expression is too large to evaluate")
        self.bits = max(self.bits, bits)
        return value

    def add(self, *terms: Value) -> Value:
        """Their sum."""
        if all(isinstance(term, Fraction) for term in terms):
            return sum(terms, Fraction(0))
        return self._context.fsum(self.number(term) for term in terms)

    def multiply(self, *factors: Value) -> Value:
        """Their product; the exact factors are multiplied first."""
        exact = Fraction(1)
        product = None
        for factor in factors:
            if isinstance(factor, Fraction):
                exact *= factor
                self.checked(exact)
            else:
                product = factor if product is None else product * factor
        return exact if product is None else product * self.number(exact)

    def divide(self, top: Value, bottom: Value) -> Value:
        """Their quotient."""
        if bottom == 0:
            raise ZeroDivisionError
        if isinstance(top, Fraction) and isinstance(bottom, Fraction):
            return top / bottom
        return self.number(top) / self.number(bottom)

    def power(self, base: Value, exponent: Value) -> Value:
        """A power; odd roots of negative numbers are real, as in school."""
        if base == 0:
            if self._context.re(self.number(exponent)) <= 0:
                raise ZeroDivisionError
            return Fraction(0)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            exact = self._exact_power(base, exponent)
            if exact is not None:
                return exact
        self._budget.spend(self._cost)
        return self._approximate_power(base, exponent)

    def _exact_power(self, base: Fraction, exponent: Fraction) -> Fraction | None:
        if exponent.denominator != 1:
            bits = base.numerator.bit_length() + base.denominator.bit_length()
            self._budget.spend(bits**2 * 1e-5)
            root = _exact_root(base, exponent.denominator)
            return None if root is None else self._exact_power(root, Fraction(exponent.numerator))
        times = abs(exponent.numerator)
        if base in (1, -1):
            return base if times % 2 else Fraction(1)
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if times * bits > MAX_EXACT_BITS:
            return None
        self._budget.spend((times * bits) ** 2 * 2e-6)
        return base**exponent.numerator

    def _approximate_power(self, base: Value, exponent: Value) -> Any:
        context = self._context
        fraction = exponent
        base, exponent = self.number(base), self.number(exponent)
        if abs(exponent) * max(abs(context.log(abs(base), 2)), 1) > MAX_MAGNITUDE:
            raise AnswerTooLarge("a power in the expression is too large to evaluate")
        is_odd = isinstance(fraction, Fraction) and fraction.denominator % 2
        if is_odd and context.im(base) == 0 and context.re(base) < 0:
            return (-1) ** fraction.numerator * context.power(-context.re(base), exponent)
        return context.power(base, exponent)

    def root(self, radicand: Value, index: Value) -> Value:
        """A root."""
        if radicand == 0:
            return Fraction(0)
        return self.power(radicand, self.divide(Fraction(1), index))

    def logarithm(self, value: Value, base: Value | None = None) -> Value:
        """A logarithm, natural unless a base is given."""
        if value == 0 or base in (0, 1):
            raise ZeroDivisionError
        if value == 1:
            return Fraction(0)
        self._budget.spend(self._cost)
        logarithm = self._context.log(self.number(value))
        return logarithm if base is None else logarithm / self._context.log(self.number(base))


def _exact_root(value: Fraction, index: int) -> Fraction | None:
    """The root if it is a fraction; None otherwise."""
    if index > _MAX_ROOT or (value < 0 and index % 2 == 0):
        return None
    top, bottom = (
        _integer_root(abs(value.numerator), index),
        _integer_root(value.denominator, index),
    )
    if top is None or bottom is None:
        return None
    return Fraction(-top if value < 0 else top, bottom)


def _integer_root(value: int, index: int) -> int | None:
    """The root if it is an integer, by Newton's method."""
    if index == 2:
        root = math.isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // index)
        while True:
            better = ((index - 1) * root + value // root ** (index - 1)) // index
            if better >= root:
                break
            root = better
    return root if root**index == value else None
