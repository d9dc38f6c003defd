"""Properties of the math verifier: exact and symbolic stages agree, and no text makes it fail."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.types import Sample
from grpo_verifiers.math import MathVerifier
from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.expressions import same_value
from grpo_verifiers.math.limits import Budget
from grpo_verifiers.math.normalise import canonical

VERIFIER = MathVerifier()
GOLDS = [
    "[0,1)", r"x\neq 2", r"\mathbb{R}", "x=1, y=2", "3:30 p.m.", r"3 \pmod 7", r"5\text{ cm}",
    "|x|<2",
    "7", r"\sqrt{2}", "x^2+1", "(1,2)", r"\{1,2\}", "x>3", "y=2x+1", r"\text{Yes}", "3:4",
    r"\begin{pmatrix}1\\2\end{pmatrix}", r"\pm 3", "1011_2", r"(0,1)\cup(2,3)", "A", r"\infty",
]  # fmt: skip
FRAGMENTS = [
    r"\emptyset", r"\neq", r"\setminus", r"\mathbb{R}", r"\sum_{k=1}^{n}", r"\max(", r"\pmod{7}",
    "f(",
    r"\lfloor ", r"\rfloor ", r"\Gamma(", r"\dot{3}", r"\ldots", "!!", "3:30", r"\begin{cases}",
    "|x|",
    r"\frac", r"\sqrt", r"\binom", r"\text{", r"\left(", r"\right)", r"\{", r"\}", r"\pi", r"\sin",
    r"\log_", r"\infty", r"\cup", r"\pm", r"\leq", r"\begin{pmatrix}", r"\end{pmatrix}", r"\\",
    r"\overline{", r"\boxed{", r"\cdot", r"\%", r"^\circ", r"\int", r"\le", r"\,", r"\approx",
    *"{}()[]^_+-*/=<>,;:.!|'$%&~ 0123456789xyneTi½²√−°", " or ", " and ", " is ", "cm", "1e5",
]  # fmt: skip

integers = st.integers(-(10**25), 10**25)
fractions = st.builds(Fraction, st.integers(-(10**6), 10**6), st.integers(1, 10**4))
decimals = st.builds(lambda n, k: (n, k), st.integers(-(10**12), 10**12), st.integers(0, 9))


def is_correct(answer: str, gold: str) -> bool:
    [verdict] = VERIFIER.verify([Sample("", rf"so \boxed{{{answer}}}", gold)])
    return verdict.is_correct


def spellings(value: Fraction) -> list[str]:
    """Ways to write a fraction exactly."""
    top, bottom = value.numerator, value.denominator
    sign, whole, rest = "-" if top < 0 else "", *divmod(abs(top), bottom)
    texts = [
        f"{top}/{bottom}",
        rf"\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{2 * top}}}{{{2 * bottom}}}",
    ]
    texts += [rf"{sign}\frac{{{abs(top)}}}{{{bottom}}}", f"x = {top}/{bottom}"]
    texts.append(rf"{sign}\frac{{{abs(top):,}}}{{{bottom:,}}}")
    if bottom == 1:
        texts += [str(top), f"{top:,}", f"{top}.0", f"{top:,}".replace(",", "{,}"), rf"\${top}"]
        texts += [f"{top} apples", f"{sign}${abs(top)}", str(top).replace("-", "−"), f"{top}e0"]
    elif whole:
        texts += [rf"{sign}{whole}\frac{{{rest}}}{{{bottom}}}", f"{sign}{whole} {rest}/{bottom}"]
    return texts


@given(value=st.one_of(integers.map(Fraction), fractions))
def test_every_spelling_of_a_number_equals_it_and_nothing_else(value: Fraction) -> None:
    gold = str(value)
    VERIFIER.check_reference(gold)
    for text in spellings(value):
        assert is_correct(text, gold), text
        assert is_correct(gold, text), text
        assert not is_correct(text, str(value + 1)), text
        assert not is_correct(text, str(-value)) or value == 0, text


@given(decimal=decimals)
def test_decimals_are_exact(decimal: tuple[int, int]) -> None:
    digits, places = decimal
    value = Fraction(digits, 10**places)
    text = f"{'-' if digits < 0 else ''}{abs(digits) // 10**places}"
    if places:
        text += f".{abs(digits) % 10**places:0{places}d}"
    quantity = read_quantity(canonical(text))
    assert quantity is not None and quantity.value == value
    assert is_correct(text, str(value))
    assert not is_correct(text, str(value + Fraction(1, 10**20)))


@given(value=fractions, other=fractions, equal=st.booleans())
def test_exact_and_symbolic_stages_agree(value: Fraction, other: Fraction, equal: bool) -> None:
    other = value if equal else other
    first, second = rf"\frac{{{value.numerator}}}{{{value.denominator}}}", f"{other}"
    quantities = read_quantity(canonical(first)), read_quantity(canonical(second))
    assert quantities[0] is not None and quantities[1] is not None
    exact = quantities[0].value == quantities[1].value
    assert same_value(canonical(first), canonical(second), Budget()) == exact == (value == other)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, str]:
    """An expression written in two ways."""
    if depth == 0:
        atom = draw(st.sampled_from(["x", "y", r"\pi", "2", "3", "7", r"\sqrt{2}", "0.5"]))
        return atom, atom
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    one = draw(st.sampled_from(["sum", "difference", "product", "quotient", "square", "minus"]))
    a, b, c, d = f"({left[0]})", f"({right[0]})", f"({left[1]})", f"({right[1]})"
    return {
        "sum": (f"{a}+{b}", f"{d}+{c}"),
        "difference": (f"{a}-{b}", rf"-{d}+{c}"),
        "product": (f"{a}{b}", rf"{d}\cdot {c}"),
        "quotient": (rf"\frac{{{a}}}{{7+{b}^2}}", rf"{c}/({d}^{{2}}+7)"),
        "square": (f"{a}^2", f"{c}{c}"),
        "minus": (f"-{a}", rf"0-{c}"),
    }[one]


@given(pair=expressions())
def test_expressions_equal_their_rearrangement(pair: tuple[str, str]) -> None:
    assert is_correct(pair[1], pair[0])
    assert not is_correct(f"{pair[1]}+1", pair[0])


@pytest.mark.parametrize("gold", GOLDS)
def test_accepts_its_own_reference(gold: str) -> None:
    VERIFIER.check_reference(gold)
    assert is_correct(gold, gold)
    [verdict] = VERIFIER.verify([Sample("", f"The answer is ${gold}$.", gold)])
    assert verdict.is_correct


latex = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


@given(
    text=st.one_of(st.text(max_size=60), latex, latex, st.text("0123456789x+-*/^(){}\\!., ")),
    form=st.sampled_from([r"\boxed{%s}", "The answer is %s.", "%s", "#### %s", "<answer>%s"]),
    gold=st.sampled_from(GOLDS),
)
def test_no_text_makes_it_fail(text: str, form: str, gold: str) -> None:
    [verdict] = VERIFIER.verify([Sample("", form.replace("%s", text), gold)])
    assert verdict.status in ("correct", "wrong", "unparseable")
    if not text.strip():
        assert not verdict.is_correct
