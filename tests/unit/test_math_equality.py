"""Which answers equal a reference: tables of pairs, each given in a box."""

from __future__ import annotations

import pytest

from grpo_core.types import Sample, Verdict
from grpo_verifiers.math import MathVerifier

EQUAL = {
    "fractions": [
        (r"\frac{1}{2}", "0.5"), (r"\frac12", "1/2"), ("2", r"\frac{4}{2}"),
        (r"-\frac{3}{4}", r"\frac{3}{-4}"), ("14/3", r"4\frac{2}{3}"), ("3.5", "3 1/2"),
        (r"\frac{x+1}{2}", "(x+1)/2"), (r"\frac{10\sqrt{10.5}}{27}", r"\frac{5\sqrt{42}}{27}"),
    ],
    "large and small": [
        ("100000", "10^5"), ("2^{100}", "1267650600228229401496703205376"),
        ("2^{2020}", r"2\cdot 2^{2019}"), ("5!", "120"), ("120", r"\binom{10}{3}"),
        (r"\frac{1}{2004!}", r"\frac{1}{2004 \cdot 2003!}"),
    ],
    "roots and constants": [
        (r"2\sqrt{3}", r"\sqrt{12}"), (r"\frac{1}{\sqrt2}", r"\frac{\sqrt{2}}{2}"),
        (r"\sqrt{2}", "√2"), (r"\sqrt{2}", "sqrt(2)"), ("-2", r"\sqrt[3]{-8}"), ("4", "8^{2/3}"),
        (r"\frac{\pi}{4}", r"\arctan 1"), (r"\frac{\pi}{4}", "pi/4"), ("3", r"\log_2 8"),
        (r"\ln 4", r"2\ln 2"), ("0", r"\sqrt{8}-2\sqrt2"), ("e^2", r"\exp(2)"),
    ],
    "expressions": [
        ("x^2+2x+1", "(x+1)^2"), ("xy", "yx"), ("x^{10}", "x**10"), ("x^{-1}", r"\frac1x"),
        (r"\sin 2x", r"2\sin x\cos x"), ("1", r"\sin^2 x+\cos^2 x"), ("|x|", r"\sqrt{x^2}"),
        ("|a||b|", "|ab|"), ("2^{n+1}", r"2\cdot 2^n"), ("n!", "n(n-1)!"),
        (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}"), ("1.5x", r"\frac{3x}{2}"),
        (r"\log x^2", r"2\log x"), ("6", "2(3)"),
    ],
    "complex": [("1+2i", "2i+1"), ("-1", "i^2"), (r"e^{i\pi}", "-1")],
    "equations": [
        ("7", "x=7"), ("x=7", "7"), ("x=3", "3=x"), ("7", "3+4=7"), ("7", r"x=\frac{14}{2}=7"),
        ("7", "f(3)=7"), ("7", "a+b=7"), ("25", "a^2+b^2=25"), ("30", r"\angle A = 30^\circ"),
        ("y=2x+1", "y=1+2x"), ("2x+1", "y=2x+1"), ("x+y=4", "2x+2y=8"),
        ("(x-1)^2+y^2=4", "x^2-2x+y^2-3=0"), ("x=1, y=2", "y=2, x=1"), ("(7,6)", "(x,y)=(7,6)"),
        ("1234", "x = 1,234"), (r"\pi", r"\pi\approx 3.14"), (r"x \approx 3.14", "3.14"),
    ],
    "sets and lists": [
        (r"\{1,2\}", r"\{2,1\}"), ("1,2", "2,1"), ("1,2", r"\{1,2\}"), ("3", r"\{3\}"),
        ("3,4", r"3 \text{ and } 4"), (r"\pm 3", "3,-3"), (r"\pm 3", "x=3 or x=-3"),
        (r"1\pm\sqrt2", r"1-\sqrt2, 1+\sqrt2"), (r"\emptyset", r"\{\}"),
        ("(2,3),(4,5)", "(4,5),(2,3)"), (r"12\text{ and }13", "12 $ and $13"),
    ],
    "tuples and intervals": [
        ("(1,2)", r"\left( 1,\; 2 \right)"), (r"(1,\frac12)", "(1,0.5)"),
        ("1<x<2", "(1,2)"), (r"1\le x<2", "[1,2)"), ("x>3", "3<x"), ("x>3", r"(3,\infty)"),
        (r"x\le 3", r"(-\infty,3]"), (r"x\in[1,2]", "[1,2]"), (r"\{x \mid x > 3\}", "x>3"),
        (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)"), (r"x\neq 2", r"2 \ne x"),
        ("[-36,104]", "[-36,104]"), (r"\langle 1,2\rangle", "(1,2)"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        (r"\begin{pmatrix}\frac12\\2\end{pmatrix}", r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\left(\begin{array}{cc}1&2\end{array}\right)"),
    ],
    "words": [
        (r"\text{Yes}", "yes"), ("Monday", r"\text{Monday}"), ("A", r"\text{(A)}"), ("A", "(A)"),
        ("B", "(B) 12"), ("Evelyn", "evelyn."), ("7", r"\text{The answer is } 7"),
        ("7", "Answer: 7"), (r"\mathbb{R}", r"\mathbb R"), (r"\angle ABC", r"\angle ABC"),
    ],
    "units": [
        (r"5\text{ cm}", "5"), ("5", "5 cm"), ("10", r"10 \text{ meters per second}"),
        ("10 mph", "10 miles per hour"), ("90", "90°"), ("18", r"\$18.00"), ("18", "18 eggs"),
        (r"6\sqrt{3}", r"6\sqrt3\text{ units}"), ("12 cm²", "12 square centimeters"),
    ],
    "other": [
        ("1011_2", "1011_{2}"), ("3:4", "3 : 4"), (r"\infty", r"+\infty"), ("7", "$7$"),
        ("7", "**7**"), ("7", r"\mathbf{7}"), ("5", r"\boxed{5}"), ("7", "{7}"),
    ],
}  # fmt: skip

DIFFERENT = {
    "numbers": [
        ("100", "100.00001"), ("1000003", "1000002"), ("700", "7"), ("7", "0.07"), ("0.09", "9"),
        ("12345678901234567890", "12345678901234567891"), (r"3\frac{1}{2}", "3/2"), ("5", "2(3)"),
        (r"\frac13", "0.3333333333"), ("5", "5 million"), ("3", "1 2"), ("7", "7 8"),
    ],
    "constants": [
        (r"\sqrt2", "1.414"), (r"\pi", "3.14"), (r"\frac{1}{2004!}", r"\frac{1}{2006!}"),
        (r"\sqrt2", r"\sqrt2+10^{-60}"), ("0", "10^{-80}"), (r"\emptyset", "0"), ("0", r"\{\}"),
        (r"\infty", r"-\infty"), (r"\frac{\pi}{2}", r"90^\circ"), (r"\gamma", "0.5772"),
    ],
    "expressions": [
        ("x", r"\sqrt{x^2}"), ("x-1", "1-x"), ("-x^2", "(-x)^2"), ("x_1", "x_2"), ("x", "x^T"),
        ("x", "x'"), ("7", "7x"), ("7", "x"), ("1+2i", "1-2i"), ("x+2n+1", "x+1"),
    ],
    "equations": [
        ("7", "8=7"), ("7", "7=8"), ("7", "x=8=7"), ("7", "x=x"), ("x=3", "y=3"), ("x=3", "2x=6"),
        ("7", "2x+1=7"), ("4", "x^2=4"), ("x+y=4", "4"), ("x+y=4", "x+y=5"), ("7", "x+1=7"),
    ],
    "hedges": [
        ("3", "3 or 4"), ("3", r"3 \text{ or } 4"), ("3", "3, 4"), ("3", "either 3 or 4"),
        ("3", "3 and 4"), ("7", "7;8"), ("7", "7 (8)"), ("7", r"7\text{ or }8"), ("7", "7/8"),
        ("7", r"\{1,2,3,4,5,6,7,8,9\}"), ("7", r"(-\infty,\infty)"), ("7", "[7,7]"), ("7", "not 7"),
        ("2", r"x=2 \text{ or } x=3"), ("7", r"\pm 7"), (r"\pm 3", "3"), ("A", "(A) or (B)"),
    ],
    "order and brackets": [
        ("(1,2)", "(2,1)"), ("(1,2)", "[1,2]"), ("(1,2]", "(1,2)"), ("[0,1]", "(0,1)"),
        ("(3,4)", "3,4"), (r"\{1,2\}", r"\{1,2,3\}"), ("1,1,2", "1,2,2"), ("(100,200)", "100200"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        ("x>3", "x<3"), ("x>3", r"x\geq 3"), ("x>3", "y>3"), ("3", "x>3"),
    ],
    "words and units": [
        ("A", "B"), ("Yes", "No"), (r"\text{even}", r"\text{odd}"), ("June 20", "20"),
        ("12 m²", "12 cm²"), (r"90\text{ cm}", "90 m"), ("1011_2", "1011_3"), ("1011_2", "11"),
    ],
    "nothing": [("7", ""), ("7", "?"), ("7", r"\frac{0}{0}"), ("7", "{}"), ("7", r"\text{}")],
}  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier()


def judge(verifier: MathVerifier, gold: str, answer: str) -> Verdict:
    [verdict] = verifier.verify([Sample("", rf"Hence $\boxed{{{answer}}}$.", gold)])
    return verdict


@pytest.mark.parametrize("topic", EQUAL)
def test_equal(verifier: MathVerifier, topic: str) -> None:
    for gold, answer in EQUAL[topic]:
        verifier.check_reference(gold)
        assert judge(verifier, gold, answer).is_correct, (gold, answer)
        assert judge(verifier, gold, gold).is_correct, gold


@pytest.mark.parametrize("topic", DIFFERENT)
def test_different(verifier: MathVerifier, topic: str) -> None:
    for gold, answer in DIFFERENT[topic]:
        verdict = judge(verifier, gold, answer)
        assert verdict.status in ("wrong", "unparseable"), (gold, answer, verdict)


def test_reasons(verifier: MathVerifier) -> None:
    assert judge(verifier, "18", "26").reason == "26 is not 18"
    assert judge(verifier, "3", "3 or 4").reason == "2 answers were given where one is asked for"
    assert "the sides of the equation differ" in judge(verifier, "7", "8=7").reason
    assert judge(verifier, "1,2", "1,2,3").reason == "3 answers, 2 expected"
