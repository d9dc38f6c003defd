"""Values of expressions and when two of them are equal, against oracles written independently."""

from __future__ import annotations

import cmath
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_verifiers.math.expressions import Closeness, check_expression, proportion, same_value
from grpo_verifiers.math.limits import AnswerError, AnswerTooLarge, Budget
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.parser import parse
from grpo_verifiers.math.symbolic import proved

values = st.fractions(min_value=-50, max_value=50, max_denominator=12)


def same(one: str, other: str) -> bool:
    return same_value(canonical(one), canonical(other), Budget())


@st.composite
def arithmetic(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """An expression of numbers, and its value by Python's own fractions."""
    if depth == 0:
        value = draw(values)
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}", value
    (a, x), (b, y) = draw(arithmetic(depth - 1)), draw(arithmetic(depth - 1))
    choices = [(f"({a})+({b})", x + y), (f"({a})-({b})", x - y), (rf"({a})\cdot ({b})", x * y)]
    choices += [(f"({a})^2", x**2), (f"-({a})", -x), (f"|{a}|", abs(x))]
    choices += [(rf"\lfloor {a} \rfloor", Fraction(math.floor(x)))]
    choices += [(rf"\max({a},{b})", max(x, y)), (rf"\sqrt{{({a})^2}}", abs(x))]
    if y:
        choices.append((rf"\frac{{{a}}}{{{b}}}", x / y))
    return draw(st.sampled_from(choices))


@given(pair=arithmetic())
def test_arithmetic_is_exact(pair: tuple[str, Fraction]) -> None:
    text, value = pair
    assert same(text, f"({value.numerator})/{value.denominator}")
    shifted = value + Fraction(1, 10**60)
    assert not same(text, f"({shifted.numerator})/{shifted.denominator}")


FUNCTIONS = [
    (r"\sin(%s)", cmath.sin), (r"\cos(%s)", cmath.cos), (r"\tan(%s)", cmath.tan),
    (r"e^{%s}", cmath.exp),
    (r"\sqrt{%s}", cmath.sqrt), (r"\arctan(%s)", cmath.atan), (r"\sinh(%s)", cmath.sinh),
    (r"|%s|", abs),
    (r"\ln(%s)", cmath.log), (r"\log_{2}(%s)", lambda z: cmath.log(z) / cmath.log(2)),
    (r"\sec(%s)", lambda z: 1 / cmath.cos(z)),
]  # fmt: skip


@given(
    outer=st.sampled_from(FUNCTIONS),
    inner=st.sampled_from(FUNCTIONS),
    value=st.integers(1, 60).map(lambda n: Fraction(n, 16)),
)
def test_functions_agree_with_cmath(
    outer: tuple[str, object], inner: tuple[str, object], value: Fraction
) -> None:
    text = outer[0] % (inner[0] % rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
    try:
        within = complex(inner[1](complex(value)))  # type: ignore[operator]
        expected = outer[1](complex(within.real, within.imag or 0.0))  # type: ignore[operator]
    except (ValueError, ZeroDivisionError, OverflowError):
        return
    close = Closeness(absolute=Fraction(1, 10**7) * (1 + int(abs(expected))))
    oracle = f"({complex(expected).real:.15f})+({complex(expected).imag:.15f})i"
    if abs(complex(expected).imag) < 1e-9:
        oracle = f"{complex(expected).real:.15f}"
    if abs(expected) < 1e6:
        assert same_value(canonical(text), canonical(oracle), Budget(), close), (text, oracle)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2^{2020}", "2^{2020}+1"), ("100!", "100!+1"), (r"2^{900}\pi", r"2^{900}\pi+1"),
        ("0", "10^{-80}"),
        (r"e^{200}+1-e^{200}", "2"), (r"\sqrt2", r"\sqrt2+10^{-60}"),
        (r"\sqrt{x}", r"\sqrt{x}+10^{-60}"),
    ],
)  # fmt: skip
def test_small_differences_are_seen(one: str, other: str) -> None:
    assert not same(one, other)
    assert same(one, one + "+0")


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^{9}}", "100000!", r"\binom{10^9}{10^8}", r"\sin(10^{1000})", r"\cosh(10^6)",
        r"\Gamma(10^6+x)",
        r"\sum_{k=1}^{2000} k!", r"\prod_{k=1}^{2000} k^k", "e^{e^{e^{e^{e}}}}", r"\cot(2^{900} i)",
    ],
)  # fmt: skip
def test_too_large(text: str) -> None:
    with pytest.raises(AnswerTooLarge):
        check_expression(canonical(text), Budget())


@pytest.mark.parametrize(
    "text", ["1/0", r"\frac{0}{0}", r"\ln 0", "(-1)!", r"\tan 90^\circ + \frac{x}{0}"]
)
def test_without_a_value(text: str) -> None:
    with pytest.raises(AnswerError, match="no value"):
        check_expression(canonical(text), Budget())


def test_what_cannot_be_evaluated_is_compared_by_its_form() -> None:
    series = r"\sum_{n=0}^\infty a_n x^n"
    check_expression(canonical(series), Budget())
    assert same(series, r"\sum_{n=0}^\infty x^n a_n")


def test_a_budget_ends() -> None:
    with pytest.raises(AnswerTooLarge, match="too long"):
        same_value(r"\sqrt{2}", r"\sqrt{3}+x", Budget(10))


def test_proportion() -> None:
    for second, sign in (
        (("2x", "6"), 1),
        (("-x", "-3"), -1),
        (("x", "4"), 0),
        (("x^{2}", "3x"), 0),
    ):
        assert proportion(("x", "3"), second, Budget()) == sign
    assert proportion((r"\sqrt{2}x", "y"), ("2x", r"\sqrt{2}y"), Budget()) == 1


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("(x+1)^2", "x^2+2x+1", True), (r"\frac{x^2-1}{x-1}", "x+1", True),
        (r"\sqrt6", r"\sqrt2\sqrt3", True),
        (r"\frac{1+\sqrt5}{2}", r"\frac{2}{\sqrt5-1}", True), ("(1+i)^2", "2i", True),
        (r"\sqrt{\frac34}", r"\frac{\sqrt3}{2}", True), (r"2\sin x+\sin x", r"3\sin x", True),
        ("x^2+1", "x^2+1+10^{-60}", False), ("x", "y", False), (r"\sqrt2", r"\sqrt3", False),
        (r"\sin^2 x+\cos^2 x", "1", None), (r"\pi", "3", None), ("(x+1)^{5000}", "x", None),
        ("(a+b+c+d)^{20}", "x", None), ("(x^{60})^{60}", "x", None), ("2^{9000}", "3", None),
    ],
)  # fmt: skip
def test_proofs(one: str, other: str, verdict: bool | None) -> None:
    assert proved(parse(canonical(one)), parse(canonical(other)), Budget()) is verdict


@given(pair=arithmetic(), shift=st.sampled_from([Fraction(0), Fraction(1, 10**50)]))
def test_proofs_agree_with_fractions(pair: tuple[str, Fraction], shift: Fraction) -> None:
    text, value = pair
    value += shift
    other = f"({value.numerator})/{value.denominator}"
    verdict = proved(parse(canonical(text)), parse(canonical(other)), Budget())
    assert verdict in (None, shift == 0)


def test_a_proof_is_paid_for() -> None:
    with pytest.raises(AnswerTooLarge, match="too long"):
        proved(parse("(x+1)(x+2)(x+3)"), parse("x"), Budget(10))
