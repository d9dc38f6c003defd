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
    "notation": [
        (r"\frac{3}{4}", r"{3 \over 4}"), (r"\binom{12}{5}", r"{12 \choose 5}"), ("7", r"\Large 7"),
        ("x+1", "𝑥+1"), ("42", "𝟒𝟐"), ("x_1", "x₁"), ("7", r"\color{blue}{7}"), ("7", "7\ufe0f"),
        (r"\frac{7}{4}", "\x0crac{7}{4}"), ("x", r"\mathrm{x}"), ("5000", "Rs. 5000"),
        ("12", "12th"),
        ("x+1", r"\begin{aligned} x+1 \end{aligned}"), (r"45^\circ", "45º"), ("7", r"7 \\"),
        ("14916", "14 {, }916"), ("1000.99", "1000,99"), ("0,111", "0.111"), ("2:30", "2{:}30"),
    ],
    "functions": [
        (r"\frac{\sqrt2}{2}", r"\sin 45^\circ"), (r"\frac{1+\sqrt5}{4}", r"\cos 36^\circ"),
        (r"2\cos\frac{\pi}{9}", r"2\cos 20^\circ"), (r"\sinh x", r"\frac{e^x-e^{-x}}{2}"),
        (r"\arcsin x", r"\sin^{-1}(x)"), (r"\sec^2 y", r"\tan^2(y)+1"), ("2", r"\lg 100"),
        (r"\frac{\ln 7}{3}", r"\ln(7)/3"), ("5", r"|3+4i|"), ("24", r"\Gamma(5)"), ("945", "9!!"),
        ("3", r"\lfloor \log_2 8 \rfloor"), (r"\lceil x \rceil", r"-\lfloor -x \rfloor"),
        ("6", r"\gcd(12,18)"), ("55", r"\sum_{k=1}^{10} k"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^n k"),
        (r"\sum_{n=0}^\infty a_n b_n", r"\sum_{n=0}^\infty b_n a_n"), ("f(x+1)", "f(1+x)"),
        (r"\int_0^1 f(x)\,dx", r"\int_0^1 f(x) dx"), (r"\sqrt{1-x^2}", r"\cos(\arcsin x)"),
    ],
    "real sets": [
        ("x<3", "2x<6"), ("x<1", "-x>-1"), ("|x|<2", "(-2,2)"), ("1<|z|<2", r"(-2,-1)\cup(1,2)"),
        (r"x\neq 2", r"(-\infty,2)\cup(2,\infty)"), (r"\mathbb{R}\setminus\{2\}", r"x\ne 2"),
        (r"(0,1]\cup(1,2)", "(0,2)"), ("(1,3)", "x>1, x<3"), (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"(-\infty,1)\cup(2,\infty)", "x<1 or x>2"), ("x >= 5", r"5 \leq x"),
        ("x != 5", r"x \neq 5"),
        (r"(-\infty,-3)\cup(-3,3)\cup(3,\infty)", r"x \neq \pm 3"),
        (r"\mathbb{R}", r"x\in\mathbb{R}"),
    ],
    "several variables": [
        ("(x,y)=(1,2)", "x=1, y=2"), ("(x,y)=(1,2)", "y=2, x=1"), ("(3,-2)", "x=3, y=-2"),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"), ("AB=4,CD=5", "4, 5"), ("|AB|=1", "1"), ("A:B=1", "1"),
        (r"\frac{NO}{BO}=\frac{1}{\sqrt6}", r"\frac{1}{\sqrt6}"), (r"\frac{dy}{dx}=2x", "2x"),
        (r"x_1=1+\sqrt2, x_2=1-\sqrt2", r"1-\sqrt2, 1+\sqrt2"),
        (r"x=2k\pi", r"x=2k\pi, k\in\mathbb{Z}"),
        ("(0,0),(1,1)", r"(x,y)\in\{(0,0),(1,1)\}"),
    ],
    "vectors and matrices": [
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\langle 1,2\rangle"),
        ("7", r"\begin{vmatrix}7&0\\0&1\end{vmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\frac12\begin{pmatrix}2\\4\end{pmatrix}"),
        (r"\begin{pmatrix}6&8\end{pmatrix}",
        r"\begin{pmatrix}1&2\end{pmatrix}+\begin{pmatrix}5&6\end{pmatrix}"),
        (r"\begin{pmatrix}5\end{pmatrix}",
        r"\begin{pmatrix}1&2\end{pmatrix}\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"3\mathbf{i}-2\mathbf{j}", r"-2\hat{\jmath}+3\hat{\imath}"),
    ],
    "times, units, residues": [
        ("3:30 p.m.", "3:30 PM"), ("3:30 p.m.", "15:30"), ("3:30", r"3:30\text{ p.m.}"),
        ("3:4", "6:8"),
        ("3:4", r"\frac34"), ("1 m", "100 cm"), ("1 hour", "60 minutes"), ("June 20", "June 20th"),
        (r"16\pi\text{ cm}^2", r"16\pi"), (r"3 \pmod 7", "3"),
        (r"x\equiv 3 \pmod 7", r"x \equiv 3 \pmod{7}"),
        ("7", r"15 \bmod 8"), ("1011_2", r"(1011)_{\text{two}}"), (r"\frac13", "0.333..."),
        ("7", "seven"),
    ],
    "literals": [
        (r"A\cap B'", r"A \cap B'"), (r"\mathbb{Z}^+", r"\mathbb{Z}^{+}"), ("C(5,2)", "C(5, 2)"),
        (r"\{2,3,5,\ldots\}", r"\{2, 3, 5, \dots\}"), (r"x\to\infty", r"x \to \infty"),
        (r"\begin{cases} x = 1 \\ y = 2 \end{cases}", "x=1, y=2"),
        (r"\lim_{x\to0} f", r"\lim_{x\to 0} f"),
        (r"\text{May 5, 2023}", r"\text{May 5, 2023}."),
    ],
    "approximations": [
        ("3.14", r"\pi"), ("4.123105625617661", r"\sqrt{17}"), ("0.67", r"\frac23"),
        (r"\approx 3.14", "3.14"),
        (r"\frac13", r"\frac13 \approx 0.333"), (r"\frac35", r"\frac35 \text{ or } 0.6"),
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
    "two words": [
        ("B", "C = B"), ("B", "x = A = B"), (r"\text{red}", r"\text{blue} = \text{red}"),
        ("x=3", "x=4 or x=3"),
    ],
    "near misses": [
        ("2^{2020}", "2^{2020}+1"), ("100!", "100!+1"), (r"2^{2020}\pi", r"2^{2020}\pi+1"),
        (r"\sqrt2", "1.4142135623730950488016887242096980785696718753769"),
        ("x^2+1", "x^2+1+10^{-60}"),
        (r"\lfloor x\rfloor", r"\lceil x\rceil-1"), ("12.345", "12,345"), ("0.5", r"0.503"),
        ("12.5", "12.52"), ("3.14", "3.14159"), ("2.75", r"\frac{275001}{100000}"), ("50", "5$0"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^n k+1"), ("f(x)", "f(y)"), ("2x+1", "2t+1"),
        ("ABC", "ACB"),
        ("x", r"\frac{d}{dx}x^2"), ("x^2-1", "x^2-1=0"), ("x^2+y^2=4", "x^2+y^2=4+10^{-50}"),
    ],
    "real sets": [
        ("x<3", "x>3"), ("x<3", "-x<-3"), (r"x\le 3", r"(-\infty,3)"),
        (r"[0,\infty)", r"[0,\infty]"),
        (r"(0,1)\cup(1,2)", "(0,2)"), ("0<x<1", "x>0 or x<1"),
        (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R}"),
        ("x>3", "y>3"), ("(1,2]", "(1,2)"), (r"|x|>2", "(-2,2)"),
    ],
    "several variables": [
        ("(x,y)=(1,2)", "x=2, y=1"), ("(3,-2)", "x=-2, y=3"), ("f(x)=x^2", "g(x)=x^2"),
        ("f(x)=x^2", "f'(x)=x^2"), ("x^2+y^2=4", "4"), (r"\{\emptyset\}", r"\emptyset"),
    ],
    "times, units, residues": [
        ("3:30 p.m.", "3:30 a.m."), ("12:00", "1:00"), ("3:4", "4:3"), ("30", "30:1"),
        ("5 cm", "5 m"),
        (r"16\pi\text{ cm}^2", r"16\pi\text{ m}^2"), (r"90", r"90\text{ million dollars}"),
        ("June 20", "20"),
        (r"x\equiv 3 \pmod 7", r"x\equiv 3 \pmod 5"), (r"x\equiv 3 \pmod 7", r"y\equiv 3 \pmod 7"),
        ("5", r"5 \mod 3"), ("11", "1011_2"), ("7", "lambda: 7"),
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
