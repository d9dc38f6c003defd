r"""The commands of an expression: fractions, roots, functions, names, finite sums.

A function without brackets takes the factors up to the next function, root, bracket or sign, so
`\sin 2x\cos x` is (\sin 2x)(\cos x); but `\cos 2\pi/3` is a cosine of 2\pi/3. `\sin(x)^2` is
(\sin x)^2, `\sin^{-1}` is the inverse, and `\log` without a base is natural.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from grpo_verifiers.math.functions import (
    DECORATIONS,
    GREEK,
    INVERSE,
    NAMES,
    SEVERAL_ARGUMENTS,
    TRIGONOMETRIC,
)
from grpo_verifiers.math.limits import AnswerError, NotEvaluated
from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol, negative, walk

if TYPE_CHECKING:
    from grpo_verifiers.math.parser import Parser

CLOSING_COMMANDS = {"lfloor": "rfloor", "lceil": "rceil", "lVert": "rVert"}
_ROUNDED = {"lfloor": "floor", "lceil": "ceil", "lVert": "abs"}
# What is mathematics, but has no value here: such a reference is compared by its spelling.
_WITHOUT_VALUE = (
    "int iint iiint oint lim limsup liminf sup inf det begin cap cup neg lnot rightarrow to "
    "Rightarrow leftrightarrow Leftrightarrow iff implies circ ldots forall exists subset subseteq "
    "supset supseteq in notin perp parallel cong sim propto mapsto oplus otimes wedge vee top bot "
    "mid nmid equiv approx leq geq neq setminus emptyset deg arg dim ker hom Pr"
)
NOT_EVALUATED = frozenset(_WITHOUT_VALUE.split())
_SERIES = ("sum", "prod")
_TWO = Number(Fraction(2))
_MINUS_ONE = Number(Fraction(-1))


def read_command(parser: Parser, name: str) -> Expression:
    """The tree of a command that has just been taken, with its arguments.

    Raises:
        AnswerError: if it is none that can be evaluated.
    """
    if name == "pi":
        return Constant("pi")
    if name == "frac":
        return _fraction(parser)
    if name == "sqrt":
        return _root(parser)
    if name == "binom":
        return Call("binomial", (parser.braced(), parser.braced()))
    if name in NAMES:
        return _function(parser, NAMES[name])
    if name in GREEK:
        return Symbol(parser.with_index("\\" + name))
    if name in DECORATIONS:
        return Symbol(parser.with_index(f"\\{name}{_decorated(parser)}"))
    if name in CLOSING_COMMANDS:
        return _rounded(parser, name)
    if name in _SERIES:
        return _series(parser, name)
    if name in NOT_EVALUATED:
        raise NotEvaluated(f"\\{name} is not evaluated")
    if name == "infty":
        return Constant("infinity")
    raise AnswerError(f"\\{name} is not evaluated")


def _fraction(parser: Parser) -> Expression:
    numerator = parser.braced()
    if numerator in (Symbol("d"), Symbol(r"\partial")):
        raise NotEvaluated("derivatives are not evaluated")
    return Call("div", (numerator, parser.braced()))


def _root(parser: Parser) -> Expression:
    index: Expression = _TWO
    if parser.skip("["):
        index = parser.inside("[")
    return Call("root", (parser.braced(), index))


def _decorated(parser: Parser) -> str:
    """The letters under a decoration, as a part of a name."""
    if parser.at("{"):
        return parser.raw_group()
    letters = ""
    while parser.next.kind in ("letter", "name"):
        letters += parser.take().text
    return "{" + letters + "}"


def _rounded(parser: Parser, opening: str) -> Expression:
    parser.open_brackets.append(opening)
    inside = parser.sum()
    parser.open_brackets.pop()
    if not parser.at_command(CLOSING_COMMANDS[opening]):
        raise AnswerError(f"\\{opening} is not closed")
    parser.take()
    return Call(_ROUNDED[opening], (inside,))


def _function(parser: Parser, name: str) -> Expression:
    base: Expression | None = None
    power: Expression | None = None
    while parser.at("_", "^"):
        if parser.take().text == "_":
            base = parser.braced()
        else:
            power = parser.braced()
    if power == _MINUS_ONE:
        if name not in INVERSE:
            raise AnswerError(f"an inverse of {name} is not evaluated")
        name, power = INVERSE[name], None
    if base is not None and name != "log":
        raise AnswerError(f"{name} has no index")
    arguments = _arguments(parser, name)
    call = Call(name, arguments if base is None else (*arguments, base))
    return call if power is None else Call("pow", (call, power))


def _arguments(parser: Parser, name: str) -> tuple[Expression, ...]:
    outer, parser.in_trigonometry = parser.in_trigonometry, name in TRIGONOMETRIC | {"cis"}
    if name in SEVERAL_ARGUMENTS:
        arguments = _listed(parser)
    elif parser.at("(", "[", "{", "|"):
        opening = parser.take().text
        inside = parser.inside(opening)
        arguments = (Call("abs", (inside,)) if opening == "|" else inside,)
    else:
        arguments = (_bare_argument(parser),)
    parser.in_trigonometry = outer
    return arguments


def _listed(parser: Parser) -> tuple[Expression, ...]:
    parser.expect("(")
    parser.open_brackets.append("(")
    arguments = [parser.sum()]
    while parser.skip(","):
        arguments.append(parser.sum())
    parser.open_brackets.pop()
    parser.expect(")")
    return tuple(arguments)


def _bare_argument(parser: Parser) -> Expression:
    """The argument of a function that is written without brackets."""
    minus = parser.skip("-")
    factors = [parser.power()]
    while parser.starts_primary():
        kind, text = parser.next
        if kind == "command" and (text in NAMES or text in _SERIES or text == "sqrt"):
            break
        if kind == "sign" and not all(isinstance(factor, Number) for factor in factors):
            break
        parser.check_juxtaposed()
        factors.append(parser.power())
    argument = factors[0] if len(factors) == 1 else Call("mul", tuple(factors))
    if parser.at("/") and parser.ahead(2)[-1].kind == "number" and Constant("pi") in walk(argument):
        parser.take()
        argument = Call("div", (argument, parser.power()))
    return negative(argument) if minus else argument


def _series(parser: Parser, name: str) -> Expression:
    r"""A sum or product over an index, `\sum_{k=1}^{n} k^2`; its terms reach to the next + or -."""
    parser.expect("_")
    parser.expect("{")
    index = parser.power()
    parser.expect("=")
    first = parser.inside("{")
    parser.expect("^")
    last = parser.braced()
    if not isinstance(index, Symbol | Constant) or index == Constant("pi"):
        raise AnswerError(f"the index of \\{name} is no variable")
    return Call(name, (Symbol(index.name), first, last, parser.product()))
