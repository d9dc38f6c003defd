"""Tests of this plugin, as its author runs them."""

from __future__ import annotations

from grpo_plugin_example.palindrome import palindrome
from grpo_plugin_example.question_marks import question_marks
from grpo_plugin_example.reversal import Reversal

from grpo_core.testing import check_shaper, check_task, check_verifier, make_scored


def test_palindrome() -> None:
    check_verifier(
        palindrome,
        accept=[("Anna", "nn"), ("No lemon, no melon", "lemon")],
        reject=[("Anne", "nn"), ("", "a"), ("aa", "a"), ("level", "x")],
    )
    check_verifier(palindrome, reject=[("Anna", "nn")], options={"ignore_case": False})


def test_question_marks() -> None:
    assert check_shaper(question_marks, [make_scored("why?"), make_scored("so.")]) == [-0.5, 0]


def test_reversal() -> None:
    assert len(check_task(Reversal)["test"]) == 2
