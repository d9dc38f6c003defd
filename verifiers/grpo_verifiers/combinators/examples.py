"""Completions whose verdict by the combinators is known."""

from __future__ import annotations

from typing import Any

from grpo_core.testing import Example
from grpo_core.types import Json

_FORM = {"name": "format", "options": {"partial": True}}
_ANSWER = {"name": "exact", "options": {"part": "answer_tag"}}
_FORM_AND_ANSWER: dict[str, Any] = {"members": [_FORM, _ANSWER]}
_MEAN: dict[str, Any] = {
    "members": [_FORM | {"weight": 1}, _ANSWER | {"weight": 3}],
    "score": "mean",
}
_TEXT_OR_CHOICE: dict[str, Any] = {"members": [{"name": "exact"}, {"name": "choice"}]}
_TAG_THEN_CHOICE: dict[str, Any] = {
    "members": [_ANSWER, {"name": "choice"}],
    "pass_on": ["unparseable"],
}
_KEY: dict[str, Json] = {"answer": "B", "options": ["Rome", "Oslo", "Bern"]}
_PROMPT = "Which is the capital of Norway?\nA. Rome\nB. Oslo\nC. Bern"


def _tagged(answer: str) -> str:
    return f"<think>Norway</think><answer>{answer}</answer>"


ALL_OF = [
    Example(_tagged("Oslo"), "Oslo", "correct", _PROMPT, _FORM_AND_ANSWER, 1.0),
    Example(_tagged("B"), ["B", "Oslo"], "correct", _PROMPT, _FORM_AND_ANSWER, 1.0),
    Example(_tagged("Rome"), "Oslo", "wrong", _PROMPT, _FORM_AND_ANSWER, 0.0),
    Example("<answer>Oslo</answer>", "Oslo", "wrong", _PROMPT, _FORM_AND_ANSWER, 0.5),
    Example("Oslo", "Oslo", "unparseable", _PROMPT, _FORM_AND_ANSWER, 0.0),
    Example("<answer>Oslo</answer>", "Oslo", "wrong", _PROMPT, _MEAN, 0.875),
    Example(_tagged("Oslo"), True, "error", _PROMPT, _FORM_AND_ANSWER),
]
ANY_OF = [
    Example("The answer is B.", "B", "correct", _PROMPT, _TEXT_OR_CHOICE, 1.0),
    Example("It is B, not A.", "It is B, not A.", "correct", _PROMPT, _TEXT_OR_CHOICE, 1.0),
    Example("So it is Oslo.", _KEY, "correct", _PROMPT, _TEXT_OR_CHOICE, 1.0),
    Example("The answer is A.", "B", "wrong", _PROMPT, _TEXT_OR_CHOICE, 0.0),
    Example("So it is Bern.", _KEY, "wrong", _PROMPT, _TEXT_OR_CHOICE, 0.0),
    Example("", "B", "unparseable", _PROMPT, _TEXT_OR_CHOICE, 0.0),
    Example("The answer is B.", True, "error", _PROMPT, _TEXT_OR_CHOICE),
]
FIRST_OF = [
    Example(_tagged("B"), "B", "correct", _PROMPT, _TAG_THEN_CHOICE, 1.0),
    Example("The answer is B.", "B", "correct", _PROMPT, _TAG_THEN_CHOICE, 1.0),
    Example("The answer is B, Oslo.", _KEY, "correct", _PROMPT, _TAG_THEN_CHOICE, 1.0),
    Example("<answer>A</answer> or B", "B", "wrong", _PROMPT, _TAG_THEN_CHOICE, 0.0),
    Example("The answer is A.", "B", "wrong", _PROMPT, _TAG_THEN_CHOICE, 0.0),
    Example("I do not know.", "B", "unparseable", _PROMPT, _TAG_THEN_CHOICE, 0.0),
    Example("The answer is B.", True, "error", _PROMPT, _TAG_THEN_CHOICE),
]
