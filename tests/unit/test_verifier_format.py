"""The format verifier: which forms are right, and that the shaper `format_bonus` agrees."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_core import Sample
from grpo_core.testing import check_conformance, check_verifier, make_scored
from grpo_core.types import Verdict
from grpo_plugins.format_bonus import format_bonus
from grpo_verifiers.format import FormatVerifier

FORM = "<think>1 + 1</think>\n<answer>2</answer>"
PIECES = ["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\n", "<b>", "<", ">"]


def judge(completion: str, **options: Any) -> Verdict:
    verifier = FormatVerifier(FormatVerifier.Config(**options))
    [verdict] = verifier.verify([Sample("", completion, None)])
    return verdict


@pytest.mark.slow
def test_conformance() -> None:
    check_conformance("format")


def test_contract() -> None:
    check_verifier(FormatVerifier, accept=[(FORM, "2"), (FORM, None)], reject=[("2", "2")])


@pytest.mark.parametrize(
    "completion",
    [
        "<think>1</think>",
        "<answer>2</answer>",
        "<answer>2</answer><think>1</think>",
        "<think>1</think><answer></answer>",
        "<think>1</think><answer> \n</answer>",
        "<think>1</think><answer>2",
        "<think>1<answer>2</answer></think>",
        "<think>1<answer>2</think></answer>",
        "<think>1</think><answer><answer>2</answer></answer>",
        "<think>1</think><think>1</think><answer>2</answer>",
        "<think>1</think><answer>2</answer><answer>3</answer>",
        "<think>1</think>so<answer>2</answer>",
        "so <think>1</think><answer>2</answer>",
        "<think>1</think><answer>2</answer>.",
        "<think>1</think><answer id='a'>2</answer>",
        "<think>1</think><answer>2<ANSWER></answer>",
        "<think>1</think><answer>2</ answer></answer>",
        "<think>1<think/></think><answer>2</answer>",
    ],
)
def test_wrong_forms(completion: str) -> None:
    verdict = judge(completion)
    assert verdict.status == "wrong" and verdict.score == 0 and verdict.reason


def test_right_forms() -> None:
    for text in (FORM, f"\n{FORM} ", "<think></think><answer>x</answer>", FORM.replace("2", "<b>")):
        assert judge(text).is_correct, text
    assert judge("<think>is <thinker> a tag?</think><answer>2</answer>").is_correct


def test_no_tags_are_unparseable() -> None:
    assert judge("The answer is 2.").status == judge("").status == "unparseable"


def test_options() -> None:
    assert judge(FORM.removeprefix("<think>"), opened=True).is_correct
    assert judge(FORM, opened=True).status == "wrong"
    assert judge("<think> </think><answer>2</answer>", filled="all").status == "wrong"
    assert judge("so <answer>2</answer>.", tags=["answer"], outside=True).is_correct
    assert judge("so <answer>2</answer>.", tags=["answer"]).status == "wrong"
    three = "<plan>a</plan><think>b</think><answer>c</answer>"
    assert judge(three, tags=["plan", "think", "answer"]).is_correct
    assert judge(three, tags=["think", "plan", "answer"]).status == "wrong"
    assert judge(three).status == "wrong"


def test_partial_marks() -> None:
    assert judge("<think>1</think>", partial=True).score == 0.5
    assert judge("<answer>2</answer><think>1</think>", partial=True).score == 0.75
    assert judge(FORM, partial=True).score == 1
    assert judge("1</think>", partial=True, opened=True).score == pytest.approx(1 / 3)


@pytest.mark.parametrize("tags", [[], ["<think>"], ["a b"], ["think", "Think"], [""]])
def test_tags_that_make_no_sense(tags: list[str]) -> None:
    with pytest.raises(ValidationError):
        FormatVerifier.Config(tags=tags)


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), st.booleans())
def test_the_shaper_agrees(text: str, opened: bool) -> None:
    """They share no code. What only looks like a tag is wrong here, and no matter to the shaper."""
    verdict = judge(text, opened=opened, partial=True)
    bonus = format_bonus(format_bonus.Config(partial=True, think_opened=opened))
    [value] = bonus.shape([make_scored(text)])
    looks_like = re.findall(r"<\s*/?\s*(?:think|answer)\b[^<>]*>", text)
    if all(tag in PIECES for tag in looks_like):
        assert verdict.score == value
    else:
        assert not verdict.is_correct
