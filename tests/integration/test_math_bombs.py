"""Answers made to hang, crash, or fill the memory of a grader, through the pool that judges them.

Every one is refused by a limit that costs nothing, so no worker is ever killed for it; that a kill
at the deadline works is shown in test_verification_faults.py, with verifiers that have no limits.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample, Verdict
from grpo_core.verification.pool import VerifierPool, VerifierSpec

Judge = Callable[[VerifierPool, Sequence[Sample]], list[Verdict]]

MEGABYTE = 1_000_000
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
REFERENCES = ("7", r"\sqrt{2}", "x^2+1", r"\{1,2\}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "B")
MAX_GROWTH_MB = 10  # of one process

ANSWERS = {
    "power tower": "9^{9^{9^{9}}}",
    "power tower without braces": "9^9^9",
    "power tower of programmers": "9**9**9",
    "power tower of variables": "x^{" * 40 + "x" + "}" * 40,
    "power tower in an exponent of e": "e^{9^{9^{9}}}",
    "power tower below a fraction bar": r"\frac{1}{9^{9^{9}}}",
    "power tower that cancels": "2^{10^{10}} - 2^{10^{10}} + 8",
    "power tower behind a name": "x = 9^{9^{9^{9}}}",
    "negative power tower": "(-9)^{-9^{9^{9}}}",
    "factorial of a billion": "(10^9)!",
    "factorial of a large literal": "100000000!",
    "repeated factorial": "9!!!!",
    "repeated factorial of a billion": "(10^{9})!!!!",
    "factorial of a factorial": "((20!)!)!",
    "binomial": r"\binom{10^{9}}{5\cdot 10^{8}}",
    "binomial of binomials": r"\binom{\binom{1000}{500}}{\binom{100}{50}}",
    "gamma function": r"\Gamma(10^{12})",
    "expansion": "(x+1)^{99999}",
    "expansion of many variables": "(a+b+c+d+f+g+h)^{500}",
    "expansion of nested powers": "(((x+1)^{99})^{99})^{99}",
    "large root index": r"\sqrt[9^{9^{9}}]{2}",
    "decimal exponent": "1e999999999",
    "negative decimal exponent": "1e-999999999",
    "power of ten": r"10^{10^{10}}",
    "decimal in scientific notation": r"1.5 \times 10^{999999999}",
    "repeating decimal": r"0.\overline{" + "3" * 5000 + "}",
    "large base": "1" * 400 + "_{" + "9" * 400 + "}",
    "digits": "9" * 5000,
    "a megabyte of digits": "9" * MEGABYTE,
    "a megabyte of decimals": "0." + "3" * MEGABYTE,
    "a megabyte of letters": "x" * MEGABYTE,
    "a megabyte of spaces": "7" + " " * MEGABYTE + "8",
    "a megabyte of minus signs": "-" * MEGABYTE + "7x",
    "a megabyte of commas": "7," * (MEGABYTE // 2) + "8",
    "a megabyte of fractions": r"\frac{1}{2}+" * (MEGABYTE // 12) + "1",
    "a megabyte of emoji": "\U0001f600" * (MEGABYTE // 4),
    "nested roots": r"\sqrt{" * 500 + "2" + "}" * 500,
    "nested fractions": r"\frac{1}{1+" * 60 + "x" + "}" * 60,
    "nested brackets": "(" * 2000 + "8" + ")" * 2000,
    "nested braces": "{" * 2000 + "8" + "}" * 2000,
    "nested sets": r"\{" * 200 + "1" + r"\}" * 200,
    "nested sines": r"\sin(" * 60 + "x" + ")" * 60,
    "nested tangents of a number": r"\tan(" * 8 + "10^{99}" + ")" * 8,
    "nested logarithms": r"\log(" * 40 + "x" + ")" * 40,
    "nested bars": "|" * 200 + "x" + "|" * 200,
    "nested matrices": r"\begin{pmatrix}" * 30 + "1" + r"\end{pmatrix}" * 30,
    "unclosed brackets": "(" * 3000,
    "unopened braces": "8" + "}" * 3000,
    "sine of a large number": r"\sin(10^{10^{8}})",
    "sum of roots": "+".join(rf"\sqrt{{{prime}}}" for prime in PRIMES),
    "product of sums of roots": "".join(rf"(1+\sqrt{{{prime}}})" for prime in PRIMES),
    "long product": r"\cdot ".join(f"(x+{number})" for number in range(300)),
    "long sum": "+".join(f"x^{{{number}}}" for number in range(400)),
    "long product of brackets": "(x+1)" * 2000,
    "long chain of equations": "=".join(["x"] * 2000),
    "long chain of plus-minus": r"\pm 1" * 2000,
    "long list of expressions": ",".join(["x^2+1"] * 500),
    "large matrix": r"\begin{pmatrix}" + r"\\".join("&".join("1" * 60) for _ in range(60))
    + r"\end{pmatrix}",
    "power of a matrix": r"\begin{pmatrix}1&1\\1&0\end{pmatrix}^{1000000000}",
    "integral": r"\int_0^1 \sin(\tan(x^x))^{\cos x}\,dx",
    "large sum": r"\sum_{k=1}^{10^{12}} \frac{1}{k}",
    "large product": r"\prod_{k=1}^{10^{9}} k",
    "limit": r"\lim_{n\to\infty}\left(1+\frac{1}{n}\right)^{n^{n}}",
    "derivative": r"\frac{d^{100}}{dx^{100}} e^{x^{x}}",
    "recursive macro": r"\def\x{\x\x}\x",
    "Python": "__import__('os').system('true')",
    "Python that says the reference": "exec('1') or 7",
    "lone surrogate": "\ud800" * 100,
    "null characters": "\0" * 1000 + "8",
}  # fmt: skip
COMPLETIONS = {
    "open boxes": r"\boxed{" * 20_000 + "7",
    "open reasoning": "<think>" * 20_000 + "7",
    "closed reasoning": "</think>" * 20_000,
    "dollar signs": "$" * 100_000,
    "numbers and dollar signs": "$1" * 50_000 + "x",
    "statements": "the answer is " * 20_000,
    "hashes": "####" * 50_000,
    "answer tags": "<answer>" * 20_000,
    "escaped brackets": r"\(" * 50_000,
    "a hedge without end": "the answer is " + "1 or " * 20_000,
    "line breaks": "\n" * MEGABYTE + "8 apples",
}
TRUE = {  # long, but right
    "7" + "+0" * 100: "7",
    r"\frac{20!}{19!}": "20",
    "+".join("1" * 100): "100",
    r"\cdot ".join("2" * 60): "2^{60}",
    "3^{1000}": "9^{500}",
    "(x+1)^{30}": "(1+x)^{30}",
    r"\sqrt{" * 3 + "256" + "}" * 3: "2",
}
KNOWN_ANSWERS = [Sample("", r"\boxed{\sqrt{8}}", r"2\sqrt{2}"), Sample("", r"\boxed{3}", "4")]


def main_thread(pool: VerifierPool, samples: Sequence[Sample]) -> list[Verdict]:
    return pool.verify("math", samples)


def other_thread(pool: VerifierPool, samples: Sequence[Sample]) -> list[Verdict]:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(pool.verify, "math", samples).result()


def coroutine(pool: VerifierPool, samples: Sequence[Sample]) -> list[Verdict]:
    return asyncio.run(pool.averify("math", samples))


everywhere = pytest.mark.parametrize("judge", [main_thread, other_thread, coroutine])


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool([VerifierSpec("math")], PluginSources()) as pool:
        yield pool


def hostile_samples() -> list[Sample]:
    boxed = [rf"\boxed{{{answer}}}" for answer in ANSWERS.values()]
    texts = [*boxed, *(f"The answer is {answer}" for answer in ANSWERS.values())]
    texts = [text for text in texts if len(text) < 10_000 or text.startswith("\\")]
    texts += COMPLETIONS.values()
    return [
        Sample("", text, REFERENCES[(place + shift) % len(REFERENCES)])
        for place, text in enumerate(texts)
        for shift in range(2)
    ]


@everywhere
def test_no_bomb_is_correct_and_none_costs_a_worker(pool: VerifierPool, judge: Judge) -> None:
    samples = hostile_samples()
    verdicts = judge(pool, samples)
    for sample, verdict in zip(samples, verdicts, strict=True):
        shown = (sample.completion[:80], sample.reference, verdict)
        assert verdict.status in ("wrong", "unparseable"), shown
    assert [verdict.is_correct for verdict in judge(pool, KNOWN_ANSWERS)] == [True, False]
    assert (pool.stats.kills, pool.stats.restarts) == (0, 0)


@everywhere
def test_what_is_only_long_is_still_right(pool: VerifierPool, judge: Judge) -> None:
    samples = [Sample("", rf"\boxed{{{answer}}}", wanted) for answer, wanted in TRUE.items()]
    for sample, verdict in zip(samples, judge(pool, samples), strict=True):
        assert verdict.is_correct, (sample.completion[:80], verdict)


@pytest.mark.parametrize("name", ["power tower", "repeated factorial", "binomial", "digits"])
def test_a_bomb_as_reference_is_reported_before_training(pool: VerifierPool, name: str) -> None:
    fine, refused = pool.check_references("math", ["7", ANSWERS[name]])
    assert fine is None
    assert refused is not None
    assert "Correct or drop this row" in refused
    verdicts = pool.verify("math", [Sample("", r"\boxed{7}", ANSWERS[name])])
    assert verdicts[0].status == "error"  # nobody's answer is judged against it
    assert pool.stats.kills == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_ten_thousand_bombs_leave_nothing_behind() -> None:
    samples = hostile_samples()
    memory = []
    with VerifierPool([VerifierSpec("math")], PluginSources()) as pool:
        pool.verify("math", samples)
        before = len(os.listdir("/proc/self/fd")), pool.pids
        for _ in range(10_000 // len(samples) + 1):
            verdicts = pool.verify("math", samples)
            assert not any(verdict.is_correct for verdict in verdicts)
            memory.append(_worker_memory(pool))
        assert (len(os.listdir("/proc/self/fd")), pool.pids) == before
        assert pool.stats.kills == 0
    # Texts of a megabyte come and go, so only the lowest values tell what is kept.
    third = len(memory) // 3
    assert min(memory[-third:]) - min(memory[:third]) < MAX_GROWTH_MB * len(before[1])


def _worker_memory(pool: VerifierPool) -> int:
    """Megabytes that the pool's processes hold."""
    pages = (int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pool.pids)
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") // MEGABYTE


ONE_PROCESS = r"""
import os
from grpo_core.types import Sample
from grpo_verifiers.math import MathVerifier

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

def pair(n):
    number = n // 10
    return (
        (rf"So \boxed{{{n}}}", str(n)),
        (rf"#### {n:,}", f"{n}.0"),
        (f"The answer is {n}/8.", rf"\frac{{{n}}}{{8}}"),
        (rf"\boxed{{({n}, {n + 1})}}", f"({n},{n})"),
        (rf"\boxed{{x \le {n}}}", rf"(-\infty,{n}]"),
        (rf"\boxed{{\{{{n}, 2\}}}}", f"2, {n}"),
        (rf"\boxed{{\text{{name{n}}}}}", "Monday"),
        (rf"\boxed{{{n}\text{{ cm}}}}", f"{n}"),
        (rf"\boxed{{{number}x^2+{n}\sqrt{{y}}}}", rf"{n}\sqrt{{y}}+{number}x^2"),
        (rf"\boxed{{\frac{{{n}}}{{\sqrt{{{number + 2}}}}}}}", rf"\sqrt{{{n}}}"),
    )[n % 10]

verifier = MathVerifier()
verifier.preload()
correct = 0
for n in range(120_000):
    if n == 20_000:
        before = megabytes()
    completion, reference = pair(n)
    correct += verifier.verify([Sample("", completion, reference)])[0].is_correct
print(correct, megabytes() - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads memory from /proc")
def test_a_hundred_thousand_checks_take_no_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS], capture_output=True, text=True, check=True
    )
    correct, growth = run.stdout.split()
    assert int(correct) == 7 * 12_000
    assert float(growth) < MAX_GROWTH_MB
