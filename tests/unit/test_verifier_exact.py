"""The exact verifier: which texts are equal, which part is read, which references are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_core import Sample
from grpo_core.errors import VerifierError
from grpo_core.testing import check_conformance, check_verifier
from grpo_core.types import Json, Verdict
from grpo_verifiers.exact import ExactVerifier
from grpo_verifiers.parts import last_box, last_tag
from grpo_verifiers.reasoning import after_reasoning


def judge(completion: str, reference: Json, prompt: str = "", **options: Any) -> Verdict:
    verifier = ExactVerifier(ExactVerifier.Config(**options))
    [verdict] = verifier.verify([Sample(prompt, completion, reference)])
    return verdict


@pytest.mark.slow
def test_conformance() -> None:
    check_conformance("exact")


def test_contract() -> None:
    check_verifier(
        ExactVerifier,
        accept=[("yes", "yes"), (" yes\n", "yes"), ("42", 42), ("0.5", 0.5), ("a  b", "a  b")],
        reject=[("Yes", "yes"), ("a b", "a  b"), ("yes!", "yes"), ("", "yes"), ("42.0", 42)],
    )
    check_verifier(
        ExactVerifier,
        accept=[("STRASSE", "straße"), ("a  B\n c", "A b C")],
        reject=[("ab", "a b")],
        options={"ignore_case": True, "collapse_whitespace": True},
    )


@given(st.text())
def test_a_text_equals_itself(text: str) -> None:
    if text.strip():
        assert judge(f" {text}\n", text).is_correct
        assert judge(text, text, ignore_case=True, normalise_unicode=True).is_correct
        assert not judge(f"{text} or not", text).is_correct


def test_several_references_are_alternatives() -> None:
    assert judge("4", ["four", 4]).is_correct
    assert judge("five", ["four", 4]).status == "wrong"


def test_what_was_compared_is_in_the_details() -> None:
    verdict = judge("\\boxed{ Yes }", "YES", part="boxed", ignore_case=True)
    assert verdict.details == {"extracted": "yes", "expected": "yes"}
    assert "'no'" in judge("no", "yes").reason and "'yes'" in judge("no", "yes").reason


@pytest.mark.parametrize(
    ("part", "completion", "status"),
    [
        ("whole", "<think>a</think>b", "wrong"),
        ("after_reasoning", "<think>a</think>b", "correct"),
        ("after_reasoning", "a</think> b", "correct"),
        ("after_reasoning", "b", "correct"),
        ("after_reasoning", "<think>b", "unparseable"),
        ("after_reasoning", "<think>a</think>", "unparseable"),
        ("answer_tag", "a <answer> b </answer> c", "correct"),
        ("answer_tag", "<answer>a</answer><answer>b</answer>", "correct"),
        ("answer_tag", "<answer>b</answer><answer>a</answer>", "wrong"),
        ("answer_tag", "<answer>b</answer> <answer>a", "unparseable"),
        ("answer_tag", "<answer>a</answer><think><answer>b</answer>", "wrong"),
        ("answer_tag", "b", "unparseable"),
        ("boxed", "so \\boxed{a}, no, \\boxed{b}.", "correct"),
        ("boxed", "\\fbox {b}", "correct"),
        ("boxed", "\\boxed{b} or \\boxed{c", "unparseable"),
        ("boxed", "\\boxed{{b}}", "wrong"),
        ("boxed", "b", "unparseable"),
        ("last_line", "a\nb\n\n", "correct"),
        ("last_line", "b\na", "wrong"),
    ],
)
def test_parts(part: str, completion: str, status: str) -> None:
    assert judge(completion, "b", part=part).status == status


def test_a_prompt_can_open_the_reasoning() -> None:
    assert judge("b", "b", "Think. <think>\n", part="after_reasoning").status == "unparseable"
    assert judge("a</think>b", "b", "Think. <think>\n", part="after_reasoning").is_correct


@given(st.text(alphabet="ab{}\\<>/ "), st.sampled_from(["", "</think>", "<answer>", "\\boxed{"]))
def test_parts_are_parts(text: str, added: str) -> None:
    whole = added + text
    assert after_reasoning(whole) in whole
    assert (last_box(whole) or "") in whole and (last_tag(whole) or "") in whole


@pytest.mark.parametrize(
    "reference",
    [None, True, {"a": 1}, float("inf"), float("nan"), [], ["a", None], "", " \n", [""]],
)
def test_refuses_what_cannot_be_compared_with(reference: Any) -> None:
    verifier = ExactVerifier()
    with pytest.raises(VerifierError):
        verifier.check_reference(reference)
    [verdict, other] = verifier.verify([Sample("", "a", reference), Sample("", "a", "a")])
    assert verdict.status == "error" and verdict.reason and other.is_correct


def test_large_numbers() -> None:
    assert judge(str(10**400), 10**400).is_correct
    assert "cannot be written" in judge("1", 10**5000).reason


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError):
        ExactVerifier.Config(part="box")
