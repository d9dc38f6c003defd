"""The math verifier as the pool sees it: statuses, options, references, limits."""

from __future__ import annotations

import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from pydantic import ValidationError

from grpo_core.errors import VerifierError
from grpo_core.testing import check_verifier
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.math import MathVerifier

NESTED = 200
BOMBS = [
    "9^{9^{9^{9}}}", "9^9^9", "9**9**9", "9!!!!", "(10^9)!!!!", "(10^9)!", "100000000!",
    r"\binom{10^9}{5\cdot10^8}", r"2^{10^{10}} - 2^{10^{10}}+8", "(x+1)^{5000}", "(x+1)**5000",
    "x**100000-1", "1/(9**9**9)", "x=9**9**9", r"\sqrt[9^{9^{9}}]{2}", "e^{9^{9^{9}}}",
    "10^{10^{10}}", "1e999999999", "9" * 5000, r"\Gamma(10^9)", r"\sin(10^{10^{5}})",
    r"\int_0^1 \sin(\tan(x^x))^{\cos x} dx", r"\sum_{k=1}^{10^9} k", r"\lim_{x\to 0} x",
    r"\sqrt{" * NESTED + "2" + "}" * NESTED, "(" * NESTED + "1" + ")" * NESTED,
    r"\sin(" * 30 + "x" + ")" * 30, r"\frac{1}{1+" * 20 + "1" + "}" * 20, "x^{" * 9 + "x" + "}" * 9,
    "|x+1|" * 10, "😀" * 1000, r"\operatorname{eigenvals}(10)", "2^{2^{2^{2^{2}}}}",
    "sqrt(2)+sqrt(3)+sqrt(5)+sqrt(7)+sqrt(11)+sqrt(13)+sqrt(17)+sqrt(19)+sqrt(23)+sqrt(29)",
    "1\\pm" * 300, ",".join("1" * 400), "x=" * 300 + "1", "{" * 1900, "\\" * 1900, "1 or " * 300,
    r"\cot(2^{900}i)", r"\cosh(2^{900})", "(10^5)!!", r"\sum_{k=1}^{2000} k!", r"\gcd(2^{10^9},3)",
    r"\binom{x}{10^9}", r"\Gamma(10^9+x)", r"\prod_{k=1}^{2000} k^k",
    "(" * 20 + "x" + ")!" * 20, "x" + "!" * 900,
    r"\sqrt[10^9]{2^{90000}}", "9" * 399 + "^{9999}", r"\lfloor e^{10^{5}} \rfloor",
    "x" + "°" * 900,
    r"\log_{2}" * 300 + "2", r"\sin " * 600 + "x", "-" * 1900 + "1", "1/" * 290 + "1",
    "2^" * 600 + "2",
    "__import__('os').system('touch PWN')", "exec('open(\"PWN\",\"w\")') or \\pi",
]  # fmt: skip
SLOW_TEXTS = [  # each once took seconds in some regular expression
    r"\boxed{" * 7000, r"\boxed{3}" + " " * 40_000 + r"x\boxed{4}", r"\(" * 20_000,
    "x" + " " * 40_000 + "y", "1 " * 20_000 + "x", "answer " * 7000 + "is 5", "$x" * 20_000,
    "<think>" * 7000, "-" * 40_000, r"\frac{1}" * 7000, "the answer is " + "1 or " * 9000,
    "A" + " " * 40_000 + ">", "\\" * 45_000, "answer" + " " * 40_000 + "(B)", "(A) " * 11_000,
    "$7$" + " " * 40_000 + "or 8", " " * 40_000 + ">", r"\boxed{" + "(A) " * 470 + "}",
    r"\boxed{" + r"\pmod 7 " * 230 + "}", "option " * 6000 + "A", "x=" + " " * 40_000 + "7",
]  # fmt: skip


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    verifier = MathVerifier()
    verifier.preload()
    return verifier


def judge(verifier: MathVerifier, completion: str, reference: Json) -> Verdict:
    [verdict] = verifier.verify([Sample("What is it?", completion, reference)])
    return verdict


def test_contract(verifier: MathVerifier) -> None:
    check_verifier(
        verifier,
        accept=[
            ("71 + 26 = 97.", 97),
            (r"so \boxed{\frac{1}{2}}", 0.5),
            ("A: 18", "She sells 16 - 3 = <<16-3=13>>13.\n#### 18"),
            (r"\boxed{x^2+2x+1}", "(x+1)^2"),
        ],
        reject=[("The sum is 96.", 97), (r"\boxed{x^2}", "(x+1)^2"), ("", "7")],
    )


def test_details(verifier: MathVerifier) -> None:
    exact = judge(verifier, r"so \boxed{1/2}", "0.5")
    assert exact.details == {
        "extracted": "1/2", "method": "boxed", "expected": "0.5", "stage": "exact",
    }  # fmt: skip
    assert judge(verifier, r"so \boxed{\sqrt{8}}", r"2\sqrt2").details["stage"] == "symbolic"
    assert judge(verifier, r"so \boxed{\sqrt{7}}", r"2\sqrt2").details["stage"] == "numeric"
    tangent = judge(verifier, r"so \boxed{\tan^2 x+1}", r"\sec^2 x")
    assert tangent.is_correct and tangent.details["stage"] == "numeric"
    long = judge(verifier, r"\boxed{" + "1+" * 500 + "1}", "7")
    assert len(long.details["extracted"]) == 200


def test_statuses(verifier: MathVerifier) -> None:
    assert judge(verifier, "It is 8", 7).status == "wrong"
    assert judge(verifier, "No idea how to begin with this one", 7).status == "unparseable"
    assert judge(verifier, r"\boxed{}", 7).status == "unparseable"
    assert judge(verifier, r"\boxed{\foo x}", "x+1").status == "unparseable"
    assert judge(verifier, r"\boxed{9^{9^{9}}}", 7).status == "wrong"


def test_a_bad_reference_is_an_error_not_a_wrong_answer(verifier: MathVerifier) -> None:
    for reference in (
        "",
        r"\sum_{k=1}^\infty",
        r"\sum x",
        "9^{9^{9}}",
        None,
        True,
        ["7"],
        float("nan"),
    ):
        verdict = judge(verifier, r"\boxed{x}", reference)
        assert verdict.status == "error" and verdict.score is None, reference
        with pytest.raises(VerifierError, match="cannot be read"):
            verifier.check_reference(reference)


def test_a_reference_that_marks_no_answer_is_refused(verifier: MathVerifier) -> None:
    worked = "We add the two and go on to the next one. " * 10 + "It is 6."
    for reference in (worked, "Then x = 3.\nThus x = 7", "3 dollars\n7 cents"):
        with pytest.raises(VerifierError, match="nothing"):
            verifier.check_reference(reference)
        assert judge(verifier, r"\boxed{6}", reference).status == "error", reference
    assert judge(verifier, r"\boxed{6}", worked + "\n#### 6").is_correct
    assert judge(verifier, r"\boxed{6}", worked + " The answer is 6.").is_correct


def test_references(verifier: MathVerifier) -> None:
    for reference in (18, 18.0, "18", " 18. ", "$18$", "Steps.\n#### 18", r"Thus $\boxed{18}$."):
        verifier.check_reference(reference)
        assert judge(verifier, "A: 18", reference).is_correct, reference
        assert not judge(verifier, "A: 19", reference).is_correct, reference
    assert judge(verifier, "0.1", 0.1).is_correct
    assert judge(verifier, "0.0000001", 1e-07).is_correct


def test_require_boxed() -> None:
    verifier = MathVerifier(MathVerifier.Config(require_boxed=True))
    verdict = judge(verifier, "The answer is 7", 7)
    assert verdict.status == "unparseable" and verdict.reason == "no boxed answer was found"
    assert judge(verifier, r"\boxed{7}", 7).is_correct


def test_percent() -> None:
    value = MathVerifier(MathVerifier.Config(percent="value"))
    unit = MathVerifier(MathVerifier.Config(percent="unit"))
    assert [judge(v, "50%", 0.5).is_correct for v in (value, unit)] == [True, False]
    assert [judge(v, "50%", 50).is_correct for v in (value, unit)] == [False, True]


def test_tolerance() -> None:
    verifier = MathVerifier(MathVerifier.Config(tolerance=0.001))
    assert judge(verifier, "0.3333", r"\frac13").is_correct
    assert judge(verifier, "3.1416", r"\pi").is_correct
    assert not judge(verifier, "3.2", r"\pi").is_correct
    assert not judge(verifier, "0.33", r"\frac13").is_correct


@pytest.mark.parametrize(
    ("option", "value", "gold", "answer", "default", "other"),
    [
        ("approximate", "never", "3.14", r"\pi", True, False),
        ("order", "lists", "1,2", "2,1", True, False),
        ("order", "none", "(1,2)", "(2,1)", False, True),
        ("units", "required", "5 cm", "5", True, False),
        ("units", "required", r"2\pi\text{ cm}", r"2\pi", True, False),
        ("degrees", "angle", r"\frac{\pi}{2}", r"90^\circ", False, True),
        ("degrees", "angle", r"90^\circ", r"\frac{\pi}{2}", False, True),
        ("base", "required", "1011_2", "1011", True, False),
        ("variables", "any", "2t+1", "2x+1", False, True),
        ("variables", "any", "x=3", "y=3", False, True),
        ("variables", "any", "2t+1", "2x+2", False, False),
        ("form", "simplified", r"\frac12", r"\frac24", True, False),
        ("form", "simplified", r"\frac12", "0.5", True, True),
        ("form", "simplified", r"2\sqrt2", r"\sqrt8", True, False),
        ("form", "simplified", "5", "2+3", True, False),
        ("form", "same", "x(x+1)", "x^2+x", True, False),
        ("form", "same", r"\frac12", r"\dfrac{1}{2}", True, True),
    ],
)
def test_options(
    option: str, value: str, gold: str, answer: str, default: bool, other: bool
) -> None:
    completion = rf"so \boxed{{{answer}}}"
    strict = MathVerifier(MathVerifier.Config(**{option: value}))
    assert judge(MathVerifier(), completion, gold).is_correct == default
    assert judge(strict, completion, gold).is_correct == other


def test_options_are_checked() -> None:
    for options in ({"tolerance": -1}, {"tolerance": 0.5}, {"percent": "both"}, {"boxed": True}):
        with pytest.raises(ValidationError):
            MathVerifier.Config(**options)
    assert all(field.description for field in MathVerifier.Config.model_fields.values())


@pytest.mark.timeout(60)  # one that is not refused runs for minutes, or for ever
@pytest.mark.parametrize("reference", ["7", r"\sqrt{2}+x"])
def test_bombs_are_refused_at_once(
    verifier: MathVerifier, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for bomb in BOMBS:
        verdict = judge(verifier, rf"\boxed{{{bomb}}}", reference)
        assert verdict.status in ("wrong", "unparseable"), (bomb[:60], verdict)
    assert not list(tmp_path.iterdir()), "something was executed"


@pytest.mark.timeout(60)  # a hang guard: in quadratic time they do not end
@pytest.mark.parametrize("text", SLOW_TEXTS, ids=range(len(SLOW_TEXTS)))
def test_long_texts_are_read_in_linear_time(verifier: MathVerifier, text: str) -> None:
    for completion in (text, "The answer is " + text, "#### " + text):
        for reference in (7.5, "J", r"\sqrt{2}+x"):
            assert not judge(verifier, completion, reference).is_correct


@pytest.mark.parametrize(
    ("prompt", "answer", "reference", "correct"),
    [
        ("What is 6 * 7?", "6 * 7", "42", False),
        ("What is 6 * 7?", r"6 \times 7", "42", False),
        ("What is 6 * 7?", "(6 * 7) + 0", "42", False),
        ("What is 6 * 7?", "6*7=42", "42", True),
        ("What is 6 * 7?", r"7 \cdot 6", "42", True),
        ("What is 16 * 7?", "6*7", "42", True),
        ("Compute $2^{10}$.", "2^{10}", "1024", False),
        (r"Reduce $\frac{3}{4}$.", r"\frac{3}{4}", "0.75", True),
    ],
)
def test_repeating_the_question_is_no_answer(
    verifier: MathVerifier, prompt: str, answer: str, reference: str, correct: bool
) -> None:
    [verdict] = verifier.verify([Sample(prompt, rf"\boxed{{{answer}}}", reference)])
    assert verdict.is_correct == correct, verdict


def test_examples_that_it_ships() -> None:
    for example in MathVerifier.examples():
        judged = MathVerifier(MathVerifier.Config(**example.options))
        [verdict] = judged.verify([Sample(example.prompt, example.completion, example.reference)])
        expected = ("wrong", "unparseable") if example.expected == "reject" else (example.expected,)
        assert verdict.status in expected, (example, verdict)


def test_threads_do_not_disturb_each_other(verifier: MathVerifier) -> None:
    pairs = [
        (r"2\sqrt{2}", r"\sqrt8"),
        (r"\frac{1+\sqrt5}{4}", r"\cos 36^\circ"),
        ("x^2-1", "(x-1)(x+1)"),
    ]
    pairs += [(r"2^{900}\pi", r"2^{900}\pi+1")] * 3  # which takes far more digits

    def verdicts(_: int) -> list[bool]:
        return [
            judge(verifier, rf"\boxed{{{answer}}}", gold).is_correct for gold, answer in pairs * 5
        ]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(verdicts, range(8)):
            assert found == [True, True, True, False, False, False] * 5


def test_mathematics_libraries_are_loaded_on_need() -> None:
    code = (
        "import sys\n"
        "from grpo_core.types import Sample\n"
        "from grpo_verifiers.math import MathVerifier\n"
        "v = MathVerifier()\n"
        "texts = ['A: 18', r'\\boxed{1/2}', 'The answer is $18.00', '3 or 4', r'\\text{no}']\n"
        "for text in texts:\n"
        "    for gold in ('18', '1/2', '#### 1,800', 'Yes', '(1,3)', r'\\{1,2\\}'):\n"
        "        v.verify([Sample('', text, gold)]); v.check_reference(gold)\n"
        "print(sorted({'sympy', 'antlr4', 'torch', 'mpmath'} & sys.modules.keys()))\n"
        "v.verify([Sample('', r'\\boxed{\\sqrt7}', r'2\\sqrt2')])\n"
        "print(sorted({'sympy', 'antlr4', 'torch', 'mpmath'} & sys.modules.keys()))\n"
        "v.verify([Sample('', r'\\boxed{\\sqrt8}', r'2\\sqrt2')])\n"
        "print(sorted({'sympy', 'antlr4', 'torch', 'mpmath'} & sys.modules.keys()))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    loaded = result.stdout.splitlines()
    assert loaded == ["[]", "['mpmath']", "['mpmath', 'sympy']"], result.stdout + result.stderr


@pytest.mark.slow
def test_memory_does_not_grow(verifier: MathVerifier) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    random = Random(1)
    sizes = []
    for round_ in range(10):
        for _ in range(10_000):
            a, b, c = (random.randrange(1, 10 ** random.randrange(1, 9)) for _ in range(3))
            answer = random.choice(
                [f"{a}", rf"\sqrt{{{a}}}+{b}", rf"\frac{{{a}}}{{{b}}}x^{c % 9}", rf"{a},{b}"]
            )
            judge(verifier, rf"so \boxed{{{answer}}}", rf"\sqrt{{{a}}}+{c}x")
        sizes.append(peak())
        del round_
    assert sizes[-1] - sizes[1] < 40_000, sizes  # kB
