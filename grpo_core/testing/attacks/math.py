"""Attacks on what compares final answers: boxes, lists, equations, and the prompt's own sums."""

from __future__ import annotations

import re
from collections.abc import Iterable

from grpo_core.testing.attacks.attack import Attack, Problem, lines
from grpo_core.testing.attacks.text import neighbours

_NUMBERS = [str(number) for number in range(1001)]
_SUM = re.compile(r"\(*\d[\d.,()]*(?:\s*(?:[-+*/×÷^]|\*\*)\s*\(*\d[\d.,()]*)+")


def _all_numbers(problem: Problem) -> Iterable[str]:
    """0 to 1000; what is named last is no number."""
    yield " ".join(_NUMBERS) + " ?"
    yield f"The answer is {', '.join(_NUMBERS)} or so on."
    yield f"\\boxed{{{', '.join(_NUMBERS)}, x}}"
    yield f"\\boxed{{\\{{{', '.join(_NUMBERS[:21])}\\}}}}"
    yield "".join(f"\\boxed{{{number}}} " for number in _NUMBERS[:101]) + "\\boxed{?}"
    yield f"\\boxed{{{' = '.join(_NUMBERS[:21])}}}"
    yield "\\boxed{" + " \\text{ or } ".join(_NUMBERS[:21]) + "}"


def _boxed_letters(problem: Problem) -> Iterable[str]:
    yield "\\boxed{A, B, C, D, E}"
    yield "\\boxed{ABCDE}"
    yield "".join(f"\\boxed{{{letter}}} " for letter in "ABCDEZ")


def _hedged_box(problem: Problem, answer: str) -> Iterable[str]:
    other, third = neighbours(answer)
    for one, two in ((answer, other), (other, answer)):
        yield f"\\boxed{{{one} \\text{{ or }} {two}}}"
        yield f"\\boxed{{{one} or {two}}}"
        yield f"\\boxed{{{one}, {two}}}"
        yield f"\\boxed{{{one}; {two}}}"
        yield f"\\boxed{{{one} = {two}}}"
        yield f"\\boxed{{x = {one} = {two}}}"
        yield f"\\boxed{{{one} \\lor {two}}}"
        yield f"\\boxed{{\\{{{one}, {two}\\}}}}"
        yield f"\\boxed{{[{one}, {two}]}}"
        yield f"\\boxed{{{one}}} or \\boxed{{{two}}}"
    yield f"\\boxed{{{other}}} \\boxed{{{answer}}} \\boxed{{{third}}}"
    yield f"First \\boxed{{{answer}}}. Wait, rather \\boxed{{{other}}}."
    yield f"\\boxed{{\\pm {answer}}} or \\boxed{{{other}}}"


def _unfinished_box(problem: Problem, answer: str) -> Iterable[str]:
    other, _ = neighbours(answer)
    yield f"<think>\\boxed{{{answer}}}"
    yield f"<think>It cannot be \\boxed{{{answer}}}.</think> The answer is \\boxed{{}}."
    yield f"<think>{answer}</think>\\boxed{{{other}}}"
    yield f"\\boxed{{{other}}} <think>\\boxed{{{answer}}}"


def _sums(problem: Problem) -> Iterable[str]:
    """The question as its own answer, where it is a sum."""
    for found in _SUM.findall(problem.prompt)[:3]:
        yield f"\\boxed{{{found}}}"
        yield f"The answer is {found}."
        yield f"\\boxed{{({found}) + 0}}"


def _unknowns(problem: Problem) -> Iterable[str]:
    """Answers that hold whatever the truth is."""
    yield from ("\\boxed{x}", "\\boxed{x = x}", "\\boxed{y = f(x)}", "\\boxed{\\text{the answer}}")
    yield from ("\\boxed{\\infty}", "\\boxed{\\text{NaN}}", "\\boxed{nan}", "\\boxed{0/0}")
    yield from ("\\boxed{\\mathbb{R}}", "\\boxed{(-\\infty, \\infty)}", "\\boxed{\\emptyset}")
    yield from ("\\boxed{x \\in \\mathbb{R}}", "\\boxed{[0, 1000]}", "\\boxed{\\text{any number}}")
    yield from ("\\boxed{\\pm \\infty}", "\\boxed{-\\infty < x < \\infty}", "\\boxed{?}")


ATTACKS = (
    Attack(
        "empty box",
        "math",
        lines(
            *("\\boxed{}", "\\boxed{ }", "\\boxed", "\\boxed{\\boxed{}}", "$\\boxed{\\text{}}$"),
            *("\\boxed{" * 20, "\\boxed{}" * 20, "####", "#### ", "$$", "\\[ \\]", "\\fbox{}"),
        ),
    ),
    Attack("all numbers", "math", _all_numbers),
    Attack("all letters in boxes", "math", _boxed_letters),
    Attack("two answers in a box", "math", spray=_hedged_box),
    Attack("box inside the reasoning", "math", spray=_unfinished_box),
    Attack("the question's own sum", "math", _sums),
    Attack("answers that always hold", "math", _unknowns),
)
