r"""Canonical text of one expression -> its tree. Nothing is evaluated, and nothing is executed.

A recursive-descent parser for LaTeX and plain notation. From loose to tight binding:

    sum       a + b - c
    product   a \cdot b, a / b, a \div b, and a b without a sign, left to right
    sign      -a
    power     a^{b}, which binds to the right
    suffix    a!, a!!, 30°, 5%
    primary   numbers, letters, (...), |...|, and the commands, which `commands` reads

What mathematicians read differently in different places is read as follows. `1/2x` is (1/2)x;
`2\frac{1}{2}` is the mixed number; e and i are the constants; f(...) and g(...) are functions that
nothing is known about; a degree sign counts only inside a trigonometric function. What has no
single reading is refused: `1 2`, `x2`, derivatives, integrals, limits.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from grpo_verifiers.math.commands import CLOSING_COMMANDS, NOT_EVALUATED, read_command
from grpo_verifiers.math.limits import AnswerError, NotEvaluated
from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol, negative
from grpo_verifiers.math.tokens import Token, TokenStream, tokenize

BARS = ("|", r"\|")
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|", r"\|": r"\|"}
_PRODUCT_COMMANDS = frozenset(["cdot", "times", "div"])
_NOT_PRIMARY = _PRODUCT_COMMANDS | set(CLOSING_COMMANDS.values())
_UNKNOWN_FUNCTIONS = frozenset("fg")


@lru_cache(maxsize=512)  # a tree may take 100 kB
def parse(text: str) -> Expression:
    """The tree of an expression in canonical text.

    Raises:
        AnswerError: if the text is no expression, or uses what is refused.
        AnswerTooLarge: if a static limit is passed.
    """
    return Parser(tokenize(text)).whole()


class Parser(TokenStream):
    """One pass over the tokens of an expression.

    Attributes:
        in_trigonometry: whether a degree sign has a meaning here.
        open_brackets: the brackets that are open, innermost last.
    """

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self.in_trigonometry = False
        self.open_brackets = [""]

    def whole(self) -> Expression:
        """The tree of all tokens."""
        tree = self.sum()
        if self.at_command(*NOT_EVALUATED):
            raise NotEvaluated(f"\\{self.next.text} is not evaluated")
        if self.next.kind != "end":
            raise AnswerError(f"{self.next.text!r} was not expected there")
        return tree

    def sum(self) -> Expression:
        """Terms with + and - between them."""
        terms = [self.product()]
        while self.at("+", "-"):
            sign = self.take().text
            term = self.product()
            terms.append(negative(term) if sign == "-" else term)
        return terms[0] if len(terms) == 1 else Call("add", tuple(terms))

    def product(self) -> Expression:
        """Factors with or without a sign between them; it stays flat, however long."""
        factors = [self._signed()]
        while True:
            if self.at("*", "/") or self.next.kind == "command":
                operator = self.next.text
                if operator in ("*", "/") or operator in _PRODUCT_COMMANDS:
                    self.take()
                    factor = self._signed()
                    inverse = operator in ("/", "div")
                    factors.append(Call("inverse", (factor,)) if inverse else factor)
                    continue
            if not self.starts_primary():
                return factors[0] if len(factors) == 1 else Call("mul", tuple(factors))
            self.check_juxtaposed()
            factors.append(self.power())

    def _signed(self) -> Expression:
        minus = False
        while self.at("+", "-"):
            minus ^= self.take().text == "-"
        factor = self.power()
        return negative(factor) if minus else factor

    def power(self) -> Expression:
        """A primary with its suffixes and its exponent."""
        self.descend()
        base = self._suffixed(self._primary())
        if self.skip("^"):
            exponent = self._signed() if self.at("+", "-") else self.power()
            base = self._suffixed(Call("pow", (base, exponent)))
        self.ascend()
        return base

    def _suffixed(self, base: Expression) -> Expression:
        if self.skip("!"):
            base = Call("double_factorial" if self.skip("!") else "factorial", (base,))
        if self.skip("°") and self.in_trigonometry:
            turn = Call("div", (Constant("pi"), Number(Fraction(180))))
            base = Call("mul", (base, turn))
        if self.skip("%"):
            base = Call("div", (base, Number(Fraction(100))))
        if self.at("!", "°", "%"):
            raise AnswerError(f"{self.next.text!r} was not expected there")
        return base

    def starts_primary(self) -> bool:
        """Whether a factor may begin with the next token."""
        kind, text = self.next
        if kind == "sign":
            if text in BARS:
                return self.open_brackets[-1] != text  # or else it closes
            return text in ("(", "[", "{")
        return kind in ("number", "letter", "name") or (
            kind == "command" and text not in _NOT_PRIMARY
        )

    def check_juxtaposed(self) -> None:
        """Refuse what is no product when it is written side by side: `1 2` and `x2`."""
        if self.next.kind == "number" and self.previous.kind in ("number", "letter", "name"):
            raise AnswerError("a number stands right behind another or behind a letter")

    def _primary(self) -> Expression:
        kind, text = token = self.take()
        if kind == "number":
            return self._number(token)
        if kind == "letter":
            return self._letter(text)
        if kind == "name":
            return Symbol(self.with_index(text.replace(" ", "")))
        if kind == "command":
            return read_command(self, text)
        if text in _CLOSING:
            inside = self.inside(text)
            return Call("abs", (inside,)) if text in BARS else inside
        raise AnswerError(f"{text!r} was not expected there" if text else "it ends too early")

    def inside(self, opening: str) -> Expression:
        """What stands up to the bracket that closes `opening`, which has been taken."""
        self.open_brackets.append(opening)
        tree = self.sum()
        self.open_brackets.pop()
        if self.at(","):
            raise NotEvaluated("several arguments are not evaluated")
        self.expect(_CLOSING[opening])
        return tree

    def braced(self) -> Expression:
        """The argument of a command."""
        self.expect("{")
        return self.inside("{")

    def _number(self, token: Token) -> Expression:
        value = literal(token.text)
        if self.at_command("overline") and "." in token.text:
            return Number(value + self._cycle() / 10 ** len(token.text.partition(".")[2]))
        if self.at_command("frac") and value.denominator == 1:
            ahead = self.ahead(7)[1:]
            shape = [t.text if t.kind == "sign" else t.kind for t in ahead]
            if shape == ["{", "number", "}", "{", "number", "}"]:
                top, bottom = literal(ahead[1].text), literal(ahead[4].text)
                if bottom:
                    self.take(7)
                    return Number(value + top / bottom)
        return Number(value)

    def _cycle(self) -> Fraction:
        self.take()
        self.expect("{")
        digits = self.take()
        self.expect("}")
        if not digits.text.isdigit():
            raise AnswerError("a line over something else than digits")
        return Fraction(int(digits.text), 10 ** len(digits.text) - 1)

    def _letter(self, letter: str) -> Expression:
        if letter in _UNKNOWN_FUNCTIONS and self.skip("("):
            return Call(f"unknown:{letter}", (self.inside("("),))
        name = self.with_index(letter)
        return Constant(name) if name in ("e", "i") else Symbol(name)

    def with_index(self, name: str) -> str:
        """A name with the index and the primes that follow it."""
        while self.at("_", "'"):
            name += self.take().text
            if name[-1] == "_":
                name += self.raw_group()
        return name

    def raw_group(self) -> str:
        """A braced group as text, for a name."""
        self.expect("{")
        text, depth = "{", 1
        while depth:
            token = self.take()
            if token.kind == "end":
                raise AnswerError("a brace is not closed")
            depth += (token.text == "{") - (token.text == "}")
            text += token.text
        return text


def literal(text: str) -> Fraction:
    """The value of a number token."""
    whole, _, places = text.replace(",", "").partition(".")
    return Fraction(int(whole + places or "0"), 10 ** len(places))
