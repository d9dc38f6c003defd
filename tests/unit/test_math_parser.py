"""How expressions are read: trees, precedence, what is refused."""

from __future__ import annotations

import pytest

from grpo_verifiers.math.limits import AnswerError, AnswerTooLarge
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.parser import parse
from grpo_verifiers.math.rewriting import rearranged
from grpo_verifiers.math.syntax import Call, Constant, Expression, Number, Symbol, symbols


def show(tree: Expression) -> str:
    """A tree as text with all its brackets."""
    if isinstance(tree, Number):
        return str(tree.value)
    if isinstance(tree, Symbol | Constant):
        return tree.name
    return f"{tree.name}({', '.join(show(argument) for argument in tree.args)})"


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1+2-x", "add(1, 2, neg(x))"),
        ("-x^2", "neg(pow(x, 2))"),
        ("2^-1", "pow(2, -1)"),
        ("2^3^2", "pow(2, pow(3, 2))"),
        ("1/2x", "mul(1, inverse(2), x)"),
        ("a/b/c", "mul(a, inverse(b), inverse(c))"),
        (r"2\cdot -3", "mul(2, -3)"),
        ("2(3)", "mul(2, 3)"),
        ("(x+1)(x-1)", "mul(add(x, 1), add(x, -1))"),
        (r"2\frac12", "5/2"),
        (r"x\frac12", "mul(x, div(1, 2))"),
        (r"\frac\pi2", "div(pi, 2)"),
        (r"e^\frac12", "pow(e, div(1, 2))"),
        ("1,234.5", "2469/2"),
        (r"0.1\overline{6}", "1/6"),
        ("2e^{i\\pi}", "mul(2, pow(e, mul(i, pi)))"),
        ("x_1'", "x_{1}'"),
        (r"\angle ABC", r"\angle{ABC}"),
        (r"\sin 2x\cos x", "mul(sin(mul(2, x)), cos(x))"),
        (r"\sin(x)^2", "pow(sin(x), 2)"),
        (r"\sin^2 x", "pow(sin(x), 2)"),
        (r"\sin^{-1} x", "arcsin(x)"),
        (r"\cos 2\pi/3", "cos(div(mul(2, pi), 3))"),
        (r"\sin x/2", "mul(sin(x), inverse(2))"),
        (r"\ln(7)/3", "mul(log(7), inverse(3))"),
        (r"\sin 30^\circ", "sin(mul(30, div(pi, 180)))"),
        ("30^\\circ", "30"),
        (r"\log_2 8", "log(8, 2)"),
        (r"\sqrt[3]{x}^2", "pow(root(x, 3), 2)"),
        ("√2", "root(2, 2)"),
        ("|a||b|", "mul(abs(a), abs(b))"),
        ("||x|-1|", "abs(add(abs(x), -1))"),
        ("2|x|", "mul(2, abs(x))"),
        (r"\lfloor x \rfloor", "floor(x)"),
        ("n!", "factorial(n)"),
        ("9!!", "double_factorial(9)"),
        ("5!^2", "pow(factorial(5), 2)"),
        ("50%x", "mul(div(50, 100), x)"),
        ("f(x+1)", "unknown:f(add(x, 1))"),
        ("x(y+1)", "mul(x, add(y, 1))"),
        (r"\max(1,x)", "max(1, x)"),
        (r"\sum_{k=1}^{n} k^2+1", "add(sum(k, 1, n, pow(k, 2)), 1)"),
        (r"F_{n-1}F_k", "mul(F_{n-1}, F_{k})"),
    ],
)
def test_trees(text: str, tree: str) -> None:
    assert show(parse(canonical(text))) == tree


@pytest.mark.parametrize(
    "text",
    [
        "1 2", "x2", "x+", "(x", "x)", "|x", "9!!!", r"\frac{d}{dx} x", r"\int x", r"\lim x", "",
        r"\foo x", "x@y", "5;6", r"\sum x", r"\log^{-1} x", "__import__('os')", "a.b", r"\sqrt[3]",
        "1..2",
        r"\sum_{2=1}^{3} k", r"\lfloor x", "x°°", "π≠3",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(AnswerError):
        parse(canonical(text))


@pytest.mark.parametrize(
    "text", ["2^" * 100 + "2", r"\sin " * 100 + "x", "9" * 401, "x+" * 400 + "x"]
)
def test_too_large(text: str) -> None:
    with pytest.raises(AnswerTooLarge):
        parse(canonical(text))


def test_long_flat_expressions_make_flat_trees() -> None:
    for text in ("x" + "y" * 500, "1" + "/x" * 290, "x" + "+y" * 290):
        tree = parse(text)
        assert isinstance(tree, Call) and len(tree.args) > 250 and hash(tree)


def test_symbols_leave_out_the_index_of_a_sum() -> None:
    assert symbols(parse(canonical(r"\sum_{k=m}^{n} k x"))) == {"m", "n", "x"}
    assert symbols(parse(canonical(r"\sum_{n=1}^{n} n"))) == {"n"}


def test_rearranged() -> None:
    one, other = (rearranged(parse(text)) for text in ("a+(b+c)d", "d(c+b)+a"))
    assert one == other != rearranged(parse("a+(b+c)b"))
