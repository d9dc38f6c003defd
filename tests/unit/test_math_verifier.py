"""The math verifier as the pool sees it: statuses, options, references, limits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    "__import__('os').system('touch PWN')", "exec('open(\"PWN\",\"w\")') or \\pi",
]  # fmt: skip
SLOW_TEXTS = [  # each once took seconds in some regular expression
    r"\boxed{" * 7000, r"\boxed{3}" + " " * 40_000 + r"x\boxed{4}", r"\(" * 20_000,
    "x" + " " * 40_000 + "y", "1 " * 20_000 + "x", "answer " * 7000 + "is 5", "$x" * 20_000,
    "<think>" * 7000, "-" * 40_000, r"\frac{1}" * 7000, "the answer is " + "1 or " * 9000,
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
        assert not judge(verifier, completion, 7).is_correct


def test_arithmetic_never_loads_sympy() -> None:
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
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
