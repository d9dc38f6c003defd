r"""The tree of an expression: numbers, symbols, and calls of operations.

Trees are values: equal trees hash and compare equal. Nothing here computes; `evaluation` does.

    2x^2        Call("mul", (Number(2), Call("pow", (Symbol("x"), Number(2)))))
    \sin \pi    Call("sin", (Constant("pi"),))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number as written."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Constant:
    """pi, e, i, or infinity."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, with its index and primes as part of its name: `x`, `x_{1}`, `x'`."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation or function with its arguments: `add`, `pow`, `sin`, `sum`, ..."""

    name: str
    args: tuple[Expression, ...]


Expression = Number | Constant | Symbol | Call


def negative(expression: Expression) -> Expression:
    """Its negative; of a number, a number."""
    if isinstance(expression, Number):
        return Number(-expression.value)
    return Call("neg", (expression,))


def walk(expression: Expression) -> Iterator[Expression]:
    """Every part of an expression, itself included, parents before their children."""
    yield expression
    if isinstance(expression, Call):
        for argument in expression.args:
            yield from walk(argument)


def symbols(expression: Expression) -> set[str]:
    """The names of its variables; the index of a sum is none."""
    if isinstance(expression, Symbol):
        return {expression.name}
    if not isinstance(expression, Call):
        return set()
    if expression.name in ("sum", "prod"):
        index, first, last, term = expression.args
        return symbols(first) | symbols(last) | (symbols(term) - symbols(index))
    return {name for argument in expression.args for name in symbols(argument)}
