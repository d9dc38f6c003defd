"""Rewriting of expressions by rules that keep or plainly change their value."""

from __future__ import annotations

from fractions import Fraction

from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol, walk

_COMMUTATIVE = frozenset(["add", "mul", "gcd", "lcm", "max", "min"])
_ASSOCIATIVE = frozenset(["add", "mul"])


def rearranged(expression: Expression) -> Expression:
    """The same expression with sums and products in one order, so that a + b equals b + a."""
    if not isinstance(expression, Call):
        return expression
    arguments = [rearranged(argument) for argument in expression.args]
    if expression.name in _ASSOCIATIVE:
        arguments = [
            part
            for argument in arguments
            for part in (
                argument.args
                if isinstance(argument, Call) and argument.name == expression.name
                else (argument,)
            )
        ]
    if expression.name in _COMMUTATIVE:
        arguments.sort(key=repr)
    return Call(expression.name, tuple(arguments))


def scaled(expression: Expression, factor: Fraction) -> Expression:
    """The expression times a number."""
    return Call("mul", (Number(factor), expression))


def in_radians(expression: Expression) -> Expression:
    """A number of degrees as an angle."""
    return Call("div", (Call("mul", (expression, Constant("pi"))), Number(Fraction(180))))


def renamed(expression: Expression, like: Expression) -> Expression:
    """The expression with its variables, in the order of their names, named as those of `like`."""
    own, others = (
        sorted({part.name for part in walk(tree) if isinstance(part, Symbol)})
        for tree in (expression, like)
    )
    if len(own) != len(others):
        return expression
    return _with_names(expression, dict(zip(own, others, strict=True)))


def _with_names(expression: Expression, names: dict[str, str]) -> Expression:
    if isinstance(expression, Symbol):
        return Symbol(names[expression.name])
    if isinstance(expression, Call):
        arguments = tuple(_with_names(argument, names) for argument in expression.args)
        return Call(expression.name, arguments)
    return expression


def is_simplified(expression: Expression) -> bool:
    """Whether fractions are in lowest terms and nothing is left to compute with numbers alone."""
    return all(_is_simple(part) for part in walk(expression) if isinstance(part, Call))


def _is_simple(call: Call) -> bool:
    """Whether one operation has been carried out as far as it goes."""
    if call.name == "add":
        return sum(_is_rational(term) for term in call.args) < 2
    if call.name in ("mul", "div"):
        return _is_simple_product(call)
    if call.name in ("neg", "inverse") or not all(isinstance(a, Number) for a in call.args):
        return True
    numbers = [argument.value for argument in call.args if isinstance(argument, Number)]
    if call.name == "root":
        return _is_simple_root(*numbers)
    return call.name == "pow" and abs(numbers[1]) > 9  # 2^{100} is better left as it is


def _is_rational(term: Expression) -> bool:
    """Whether a term is a number or a fraction of numbers."""
    if isinstance(term, Call) and term.name in ("neg", "div", "mul", "inverse"):
        return all(_is_rational(argument) for argument in term.args)
    return isinstance(term, Number)


def _is_simple_product(call: Call) -> bool:
    """Whether a product has at most one number above and one below, in lowest terms."""
    tops: list[Fraction] = []
    bottoms: list[Fraction] = []
    for position, factor in enumerate(call.args):
        below = call.name == "div" and position == 1
        if isinstance(factor, Call) and factor.name == "inverse":
            factor, below = factor.args[0], True
        if isinstance(factor, Call) and factor.name == "neg":
            factor = factor.args[0]
        if isinstance(factor, Number):
            (bottoms if below else tops).append(factor.value)
    if len(tops) > 1 or len(bottoms) > 1:
        return False
    if not tops or not bottoms:
        return 1 not in bottoms
    return bottoms[0] > 1 and Fraction(tops[0], bottoms[0]).denominator == bottoms[0]


def _is_simple_root(radicand: Fraction, index: Fraction) -> bool:
    """Whether no power can be taken out of a root of a whole number."""
    if radicand.denominator != 1 or index.denominator != 1 or not 2 <= index <= 9:
        return False
    rest, power = abs(radicand.numerator), int(index)
    return rest > 1 and all(rest % base**power for base in range(2, 1000) if base**power <= rest)
