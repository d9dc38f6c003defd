r"""LaTeX of one expression -> sympy tree, exact and unevaluated. Imports sympy: load it on demand.

The grammar is that of latex2sympy2_extended (ANTLR), which never evaluates Python. What it reads
differently from a mathematician, as measured with version 1.11, is corrected or refused here:

- decimals become floats: read as fractions;
- `2(3)` and `1 2` are read as the mixed numbers 5 and 3: a mixed number needs a `\frac` of digits;
- a base subscript (`1011_2`), a transpose (`x^T`), and a prime (`x'`) are dropped: refused;
- `|a||b|` is read as one pair of bars: bars are told apart by where they stand;
- binomials and gamma functions are evaluated while parsing: binomials kept unevaluated, gamma
  refused; so are integrals, sums, limits and matrix functions;
- syntax errors are bare `Exception`s: ours are `AnswerError`s.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from antlr4.error.ErrorListener import ErrorListener
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

from grpo_verifiers.math.limits import (
    MAX_DIGITS,
    MAX_EXPRESSION_CHARS,
    MAX_EXPRESSION_NESTING,
    AnswerError,
    AnswerTooLarge,
    check_length,
    check_nesting,
)

# What the grammar's converter raises on texts that parse but make no sense to it (`\frac{d}{dx}`,
# a norm of a number, ...): a library's failure to read a model's text is that text's fault.
_CONVERSION_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    UnboundLocalError,
    ValueError,
)
_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp sqrt frac binom cdot "
    "times div pi infty lfloor rfloor lceil rceil lvert rvert"
)
_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau upsilon phi varphi chi psi omega Delta Theta Lambda Xi Sigma Phi Psi Omega ell"
)
_ALLOWED = frozenset((_FUNCTIONS + " " + _GREEK).split())
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_REFUSED = (
    (re.compile(r"!\s*!"), "double factorials are not evaluated"),
    (re.compile(r"[0-9]\s*_"), "a number with a subscript is not evaluated"),
    (re.compile(r"\^\{?\s*(?:T(?![a-zA-Z])|\\top)|'"), "transposes and primes are not evaluated"),
    (re.compile(r"\^\{[^{}]*\}\s*\^"), "a power of a power needs brackets"),
    (
        re.compile(r"\\sqrt\s*\[(?!\s*(?:[0-9]{1,2}|[a-z])\s*\])"),
        "the index of a root is too complicated",
    ),
    (re.compile(r"[:;&?@#\"=<>%]"), "a sign in the expression has no meaning here"),
)
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")
_MIXED_FRACTION = re.compile(r"\\frac\{([0-9]+)\}\{([0-9]+)\}")
_CONVERSION = ConversionConfig(lowercase_symbols=False)
_CONSTANTS = {"i": sympy.I, "e": sympy.E}


@lru_cache(maxsize=1024)
def read_expression(text: str) -> Any:
    """The sympy expression that a canonical text denotes, unevaluated.

    Raises:
        AnswerError: if the text is no expression, or uses what is refused.
        AnswerTooLarge: if a static limit is passed.
    """
    check_length(text, MAX_EXPRESSION_CHARS)
    check_nesting(text, MAX_EXPRESSION_NESTING)
    if _LONG_NUMBER.search(text):
        raise AnswerTooLarge(f"a number has more than {MAX_DIGITS} digits")
    text = _directed_bars(text.replace("°", ""))
    if not text.isascii():
        raise AnswerError("the expression has characters that are no mathematics")
    for command in _COMMAND.findall(text):
        if command not in _ALLOWED:
            raise AnswerError(f"\\{command} is not evaluated")
    for pattern, reason in _REFUSED:
        if pattern.search(text):
            raise AnswerError(reason)
    expression = _convert(text)
    if not isinstance(expression, sympy.Expr):
        raise AnswerError("the answer is not one expression")
    renamed = {s: _CONSTANTS[s.name] for s in expression.free_symbols if s.name in _CONSTANTS}
    with sympy.evaluate(False):
        return expression.xreplace({**renamed, sympy.EulerGamma: sympy.Symbol("gamma")})


def _convert(text: str) -> Any:
    try:
        return _Converter(config=_CONVERSION).parse(text)
    except AnswerError:
        raise
    except _CONVERSION_ERRORS as error:
        raise AnswerError(f"the expression cannot be read: {type(error).__name__}") from error
    except Exception as error:
        if (
            type(error) is not Exception
        ):  # the library raises bare Exceptions, and only they end here
            raise
        raise AnswerError(f"the expression cannot be read: {error}") from error


class _Listener(ErrorListener):
    def syntaxError(
        self, recognizer: Any, symbol: Any, line: int, column: int, message: str, error: Any
    ) -> None:
        raise AnswerError(f"syntax error at character {column}")


class _Converter(_Latex2Sympy):
    """The library's converter, kept exact."""

    def create_parser(self, latex: str) -> Any:
        parser = super().create_parser(latex)
        for recognizer in (parser, parser.getTokenStream().tokenSource):
            recognizer.removeErrorListeners()
            recognizer.addErrorListener(_Listener())
        return parser

    def parse_number(self, text: str) -> Any:
        value = Fraction(text.replace(",", ""))
        return sympy.Rational(value.numerator, value.denominator)

    def convert_binom(self, binom: Any) -> Any:
        top, bottom = self.convert_expr(binom.upper), self.convert_expr(binom.lower)
        return sympy.binomial(top, bottom, evaluate=False)

    def convert_postfix_list(self, arr: Any, i: int = 0) -> Any:
        """Juxtaposition is a product, except for an integer before a fraction of digits."""
        texts = [item.getText() for item in arr]
        factors = [self.convert_postfix(item) for item in arr]
        if not all(isinstance(factor, sympy.Expr) for factor in factors):
            raise AnswerError("the expression is no product of expressions")
        if len(arr) > 1 and texts[0].isdigit():
            if texts[1].isdigit():
                raise AnswerError("two numbers stand side by side")
            if mixed := _MIXED_FRACTION.fullmatch(texts[1]):
                whole = factors[0] + sympy.Rational(int(mixed[1]), int(mixed[2]))
                factors = [whole, *factors[2:]]
        product = factors[0]
        for factor in factors[1:]:
            product = self.mul_flat(product, factor)
        return product


def _directed_bars(text: str) -> str:
    r"""Replace each | by \lvert or \rvert, by whether an operand stands before it."""
    pieces = text.split("|")
    if len(pieces) == 1:
        return text
    result, is_open = pieces[0], 0
    for piece in pieces[1:]:
        before = result.rstrip()
        after_operand = bool(before) and (before[-1].isalnum() or before[-1] in ")]}!")
        after_operand = after_operand or before.endswith(r"\rvert")
        after_operand = after_operand and not before.endswith((r"\lvert", r"\cdot", r"\times"))
        closes = is_open > 0 and after_operand
        is_open += -1 if closes else 1
        result += (r"\rvert " if closes else r"\lvert ") + piece
    if is_open:
        raise AnswerError("absolute bars do not match")
    return result
