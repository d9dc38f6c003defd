"""Generated answers of the kinds that competition problems have, for `verify_math.py`.

Each shape gives an answer, the same value written differently, and a near miss, from numbers that
`random` draws; no two calls give the same answer often enough to matter.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple


class Answer(NamedTuple):
    """An answer in LaTeX, the same in another form, and one that is wrong by little."""

    text: str
    equal: str
    wrong: str


class Pair(NamedTuple):
    """What both verifiers judge."""

    completion: str
    reference: str
    label: bool


_FREE = (2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23, 26, 29, 30, 31, 33, 34, 35, 37)


def _signed(value: int) -> str:
    return f"+{value}" if value >= 0 else str(value)


def _integer(r: Random) -> Answer:
    n = r.randint(2, 99_999)
    return Answer(str(n), f"{n:,}", str(n + 1))


def _fraction(r: Random) -> Answer:
    a, b = r.randint(1, 999), r.randint(2, 999)
    return Answer(rf"\frac{{{a}}}{{{b}}}", f"{2 * a}/{2 * b}", rf"\frac{{{a + 1}}}{{{b}}}")


def _radical(r: Random) -> Answer:
    a, b = r.randint(2, 99), r.choice(_FREE)
    return Answer(rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b + 1}}}")


def _radical_sum(r: Random) -> Answer:
    a, b, c, d = r.randint(1, 99), r.randint(2, 99), r.choice(_FREE), r.randint(2, 99)
    return Answer(
        rf"\frac{{{a}+{b}\sqrt{{{c}}}}}{{{d}}}",
        rf"\frac{{{a}}}{{{d}}}+\frac{{{b}\sqrt{{{c}}}}}{{{d}}}",
        rf"\frac{{{a}-{b}\sqrt{{{c}}}}}{{{d}}}",
    )


def _multiple_of_pi(r: Random) -> Answer:
    a, b, c = r.randint(1, 99), r.randint(2, 99), r.choice(_FREE)
    return Answer(
        rf"\frac{{{a}\pi}}{{{b}}}-\sqrt{{{c}}}",
        rf"-\sqrt{{{c}}}+\frac{{{a}}}{{{b}}}\pi",
        rf"\frac{{{a}\pi}}{{{b + 1}}}-\sqrt{{{c}}}",
    )


def _logarithm(r: Random) -> Answer:
    a, b = r.randint(2, 9), r.randint(2, 99)
    return Answer(rf"{a}\ln {b}", rf"\ln({b**a})", rf"{a}\ln {b + 1}")


def _quadratic(r: Random) -> Answer:
    a, b, c = r.randint(1, 20), r.randint(-30, 30), r.randint(-30, 30)
    b, c = b or 1, c or 1
    expanded = f"{a}x^2{_signed(a * (b + c))}x{_signed(a * b * c)}"
    wrong = f"{a}x^2{_signed(a * (b + c))}x{_signed(-a * b * c)}"
    return Answer(expanded, f"{a}(x{_signed(b)})(x{_signed(c)})", wrong)


def _rational(r: Random) -> Answer:
    a, b, c = r.randint(2, 30), r.randint(1, 30), r.randint(1, 30)
    return Answer(
        rf"\frac{{{a}x+{b}}}{{x-{c}}}",
        rf"{a}+\frac{{{a * c + b}}}{{x-{c}}}",
        rf"\frac{{{a}x-{b}}}{{x-{c}}}",
    )


def _two_variables(r: Random) -> Answer:
    a, b, c = (r.randint(2, 30) for _ in range(3))
    return Answer(
        f"{a}x^2y-{b}xy^2+{c}", f"xy({a}x-{b}y)+{c}", f"{a}x^2y-{b}xy^2+{c + 1}"
    )  # fmt: skip


def _trigonometric(r: Random) -> Answer:
    a, b = r.randint(2, 40), r.randint(2, 40)
    return Answer(
        rf"{a}\sin 2x+{b}", rf"{b}+{2 * a}\sin x\cos x", rf"{a}\sin 2x-{b}"
    )  # fmt: skip


def _complex(r: Random) -> Answer:
    a, b, c = r.randint(1, 60), r.choice(_FREE), r.randint(2, 60)
    return Answer(
        rf"{a}-{c}\sqrt{{{b}}}i", rf"-i\sqrt{{{b * c * c}}}+{a}", rf"{a}+{c}\sqrt{{{b}}}i"
    )  # fmt: skip


def _interval(r: Random) -> Answer:
    a, b, c = r.randint(-99, -1), r.choice(_FREE), r.randint(2, 60)
    return Answer(
        rf"\left({a},{c}\sqrt{{{b}}}\right]",
        rf"{a} < x \le \sqrt{{{c * c * b}}}",
        rf"\left({a},{c}\sqrt{{{b}}}\right)",
    )


def _point(r: Random) -> Answer:
    a, b, c = r.randint(-99, 99), r.choice(_FREE), r.randint(2, 99)
    return Answer(
        rf"\left({a},\frac{{\sqrt{{{b}}}}}{{{c}}}\right)",
        rf"({a},\frac{{1}}{{{c}}}\sqrt{{{b}}})",
        rf"\left({a},\frac{{\sqrt{{{b}}}}}{{{c + 1}}}\right)",
    )


def _matrix(r: Random) -> Answer:
    a, b, c = (r.randint(-30, 30) for _ in range(3))
    d = r.choice(_FREE)
    start, end = r"\begin{pmatrix}", r"\end{pmatrix}"
    return Answer(
        rf"{start} {a} & {b} \\ {c} & 2\sqrt{{{d}}} {end}",
        rf"\begin{{bmatrix}} {a}&{b}\\{c}&\sqrt{{{4 * d}}} \end{{bmatrix}}",
        rf"{start} {a} & {b} \\ {c} & 3\sqrt{{{d}}} {end}",
    )


def _line(r: Random) -> Answer:
    a, b = r.randint(2, 99), r.randint(1, 99)
    return Answer(f"y = {a}x + {b}", f"{a}x - y + {b} = 0", f"y = {a}x - {b}")


def _roots(r: Random) -> Answer:
    a, b = r.randint(1, 99), r.choice(_FREE)
    return Answer(
        rf"{a}+\sqrt{{{b}}}, {a}-\sqrt{{{b}}}", rf"{a}\pm\sqrt{{{b}}}", rf"{a}\pm\sqrt{{{b + 1}}}"
    )  # fmt: skip


_SYMBOLIC: tuple[Callable[[Random], Answer], ...] = (
    _radical, _radical_sum, _multiple_of_pi, _logarithm, _quadratic, _rational, _two_variables,
    _trigonometric, _complex, _interval, _point, _matrix, _line, _roots,
)  # fmt: skip
# About half of MATH's answers are integers and fractions.
_ALL = (*_SYMBOLIC, *[_integer] * 8, *[_fraction] * 4)

_SENTENCES = (
    "We begin by writing the condition as $x^2 - {a}x + {b} = 0$ and completing the square.",
    "Since ${a} + {b} = {c}$, the two triangles are similar and their sides are in proportion.",
    r"By Vieta's formulas, the sum of the roots is ${a}$ and their product is $\frac{{{b}}}{{2}}$.",
    "Let $n$ be the number of such arrangements; there are ${a}$ ways to choose the first.",
    r"Therefore \[ f({a}) = {a}^2 - {b} \cdot {a} + {c}, \] which we can simplify.",
    "Substituting back, the terms with ${b}$ cancel and only one case remains.",
    "Note that ${c} > {b}$, so the second case cannot occur.",
)


def solution(random: Random, answer: str) -> str:
    """A worked solution of some hundred characters that ends in a boxed answer."""
    lines = []
    for sentence in random.sample(_SENTENCES, random.randint(3, len(_SENTENCES))):
        a, b = random.randint(2, 99), random.randint(2, 99)
        lines.append(sentence.format(a=a, b=b, c=a + b))
    return "\n".join([*lines, rf"Hence the answer is $\boxed{{{answer}}}$."])


def string_equal(random: Random) -> Pair:
    """The reference in the box, letter by letter."""
    answer = random.choice(_ALL)(random)
    return Pair(solution(random, answer.text), answer.text, label=True)


def symbolic_mismatch(random: Random) -> Pair:
    """An expression that differs from the reference in one number or sign; no plain numbers."""
    answer = random.choice(_SYMBOLIC)(random)
    return Pair(solution(random, answer.wrong), answer.text, label=False)


def symbolic_equal(random: Random) -> Pair:
    """An expression equal to the reference and written differently; no plain numbers."""
    answer = random.choice(_SYMBOLIC)(random)
    return Pair(solution(random, answer.equal), answer.text, label=True)


def word_problem(random: Random) -> Pair:
    """In the style of GSM8K's model outputs: several steps and an answer line; half are wrong."""
    total, lines = random.randint(2, 60), []
    for _ in range(random.randint(2, 5)):
        step = random.randint(2, 40)
        lines.append(f"They get {step} more, which is {total} + {step} = "
                     f"<<{total}+{step}={total + step}>>{total + step} in all.")  # fmt: skip
        total += step
    label = random.random() < 0.5
    shown = total if label else total + random.choice((-10, -1, 1, 10))
    return Pair("\n".join([*lines, f"A: {shown:,}"]), str(total), label)
