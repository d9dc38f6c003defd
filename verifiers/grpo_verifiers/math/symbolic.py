r"""Proof that two expressions are equal, or that they are not, in sympy's exact polynomials.

Evaluation at points is strong evidence, no proof. Here both expressions become quotients of
polynomials with rational coefficients, in which `\sqrt{p}` and i are variables whose squares are
known, and everything else that is no arithmetic (`\sin x`, pi, other roots) is a variable of its
own. If the difference vanishes, they are equal. If it does not, and there are no variables of that
last kind, they are different; with them, nothing is decided.

Nothing is simplified, expanded by sympy, or parsed; products that would be large are not formed.
Imports sympy: load it on demand.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from sympy import QQ
from sympy.polys.rings import ring

from grpo_verifiers.math.limits import Budget
from grpo_verifiers.math.rewriting import rearranged
from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol

_MAX_GENERATORS = 12
_MAX_TERMS = 400
_MAX_DEGREE = 80
_MAX_EXPONENT = 60
_MAX_NUMBER_BITS = 4_000
_MAX_RADICAND = 10**6
_ARITHMETIC = frozenset(["add", "mul", "div", "inverse", "neg"])

Quotient = tuple[Any, Any]  # numerator and denominator, elements of one ring


class _Undecided(Exception):
    """The expressions are past the limits of the proof."""


def proved(first: Expression, second: Expression, budget: Budget) -> bool | None:
    """Whether two expressions are equal as functions, where that can be proved; None elsewhere.

    Raises:
        AnswerTooLarge: if the budget is spent.
    """
    try:
        proof = _Proof((first, second), budget)
        (a, b), (c, d) = (proof.quotient(tree) for tree in (first, second))
        if proof.vanishes(b) or proof.vanishes(d):
            return None
        equal = proof.vanishes(proof.times(a, d) - proof.times(c, b))
    except _Undecided:
        return None
    return True if equal else None if proof.has_unknowns else False


class _Proof:
    """The ring that holds two expressions.

    Attributes:
        has_unknowns: whether a variable stands for something whose relations are not known.
    """

    def __init__(self, trees: tuple[Expression, ...], budget: Budget) -> None:
        self.has_unknowns = False
        self._budget = budget
        names: dict[str, int] = {}  # of each variable, its square, or 0
        for tree in trees:
            self._collect(tree, names)
        if len(names) > _MAX_GENERATORS:
            raise _Undecided
        self._squares = list(names.values())
        self._ring, *generators = ring([f"g{n}" for n in range(max(len(names), 1))], QQ)
        self._generators = dict(zip(names, generators, strict=False))

    def _collect(self, tree: Expression, names: dict[str, int]) -> None:
        """Note the variables that an expression needs."""
        if isinstance(tree, Symbol):
            names[repr(tree)] = 0
        elif isinstance(tree, Constant):
            names[repr(tree)] = -1 if tree.name == "i" else 0
            self.has_unknowns |= tree.name != "i"
        elif isinstance(tree, Call):
            if tree.name in _ARITHMETIC or _integer_power(tree) is not None:
                for argument in tree.args if tree.name in _ARITHMETIC else tree.args[:1]:
                    self._collect(argument, names)
            elif (radicand := _square_root(tree)) is not None:
                for prime in _factors(radicand)[1]:
                    names[f"root {prime}"] = prime
            else:
                names[repr(rearranged(tree))] = 0
                self.has_unknowns = True

    def quotient(self, tree: Expression) -> Quotient:
        """An expression as a numerator and a denominator."""
        one = self._ring.one
        if isinstance(tree, Number):
            return self._number(tree.value)
        if not isinstance(tree, Call):
            return self._generators[repr(tree)], one
        if tree.name in _ARITHMETIC:
            return self._arithmetic(tree)
        if (exponent := _integer_power(tree)) is not None:
            return self._power(self.quotient(tree.args[0]), exponent)
        if (radicand := _square_root(tree)) is not None:
            return self._root(radicand)
        return self._generators[repr(rearranged(tree))], one

    def _arithmetic(self, tree: Call) -> Quotient:
        parts = [self.quotient(argument) for argument in tree.args]
        top, bottom = parts[0]
        if tree.name == "neg":
            return -top, bottom
        if tree.name == "inverse":
            return bottom, top
        for a, b in parts[1:]:
            if tree.name == "add":
                top = self.times(top, b) + self.times(a, bottom) if b != bottom else top + a
                bottom = self.times(bottom, b) if b != bottom else bottom
            else:
                a, b = (b, a) if tree.name == "div" else (a, b)
                top, bottom = self.times(top, a), self.times(bottom, b)
        return top, bottom

    def _number(self, value: Fraction) -> Quotient:
        if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_NUMBER_BITS:
            raise _Undecided
        return self._ring(QQ(value.numerator, value.denominator)), self._ring.one

    def _power(self, base: Quotient, exponent: int) -> Quotient:
        top, bottom = base if exponent >= 0 else (base[1], base[0])
        result = self._ring.one, self._ring.one
        for _ in range(abs(exponent)):
            result = self.times(result[0], top), self.times(result[1], bottom)
        return result

    def _root(self, radicand: Fraction) -> Quotient:
        square, primes = _factors(radicand)
        result = self._ring(QQ(square, radicand.denominator))
        for prime in primes:
            result *= self._generators[f"root {prime}"]
        return result, self._ring.one

    def times(self, first: Any, second: Any) -> Any:
        """A product, if it is not too large."""
        size = len(first) * len(second)
        if size > _MAX_TERMS or _degree(first) + _degree(second) > _MAX_DEGREE:
            raise _Undecided
        self._budget.spend(5 + 3 * size)
        product = self._reduced(first * second)
        if any(_bits(coefficient) > 2 * _MAX_NUMBER_BITS for coefficient in product.values()):
            raise _Undecided
        return product

    def _reduced(self, polynomial: Any) -> Any:
        """The polynomial with the known squares put in."""
        if not any(self._squares):
            return polynomial
        terms: dict[tuple[int, ...], Any] = {}
        for exponents, coefficient in polynomial.terms():
            kept = []
            for exponent, square in zip(exponents, self._squares, strict=True):
                if square:
                    coefficient *= QQ(square) ** (exponent // 2)
                    exponent %= 2
                kept.append(exponent)
            terms[tuple(kept)] = terms.get(tuple(kept), QQ(0)) + coefficient
        return self._ring.from_dict(terms)

    def vanishes(self, polynomial: Any) -> bool:
        """Whether a polynomial is zero."""
        return not self._reduced(polynomial)


def _bits(coefficient: Any) -> int:
    return int(coefficient.numerator).bit_length() + int(coefficient.denominator).bit_length()


def _degree(polynomial: Any) -> int:
    return max((sum(exponents) for exponents in polynomial), default=0)


def _integer_power(call: Call) -> int | None:
    """The exponent of a power, if it is a small integer."""
    exponent = _fraction(call.args[1]) if call.name == "pow" else None
    if exponent is None:
        return None
    return int(exponent) if exponent.denominator == 1 and abs(exponent) <= _MAX_EXPONENT else None


def _square_root(call: Call) -> Fraction | None:
    """The radicand of a square root of a positive number of moderate size."""
    if call.name not in ("root", "pow"):
        return None
    radicand, index = (_fraction(argument) for argument in call.args)
    if radicand is None or radicand <= 0:
        return None
    if index != (2 if call.name == "root" else Fraction(1, 2)):
        return None
    return radicand if radicand.numerator * radicand.denominator <= _MAX_RADICAND else None


def _fraction(tree: Expression) -> Fraction | None:
    """The value of a number, or of a fraction of two."""
    if isinstance(tree, Number):
        return tree.value
    if isinstance(tree, Call) and tree.name == "div":
        top, bottom = tree.args
        if isinstance(top, Number) and isinstance(bottom, Number) and bottom.value:
            return top.value / bottom.value
    return None


def _factors(radicand: Fraction) -> tuple[int, list[int]]:
    r"""(s, primes) with \sqrt{a/b} = s \sqrt{p} \sqrt{q} ... / b."""
    rest, square, primes = radicand.numerator * radicand.denominator, 1, []
    prime = 2
    while prime * prime <= rest:
        while rest % prime**2 == 0:
            rest //= prime**2
            square *= prime
        if rest % prime == 0:
            rest //= prime
            primes.append(prime)
        prime += 1
    return square, primes + ([rest] if rest > 1 else [])
