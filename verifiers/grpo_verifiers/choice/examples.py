"""Completions whose verdict by the choice verifier is known."""

from __future__ import annotations

from grpo_core.testing import Example

_CAPITAL = "What is the capital of France?\nA. London\nB. Paris\nC. Rome\nD. Bonn\nE. Bern"
_CITIES = {"answer": "B", "options": ["London", "Paris", "Rome", "Bonn", "Bern"]}
_LETTERS = {"letters": 4}

EXAMPLES = [
    Example("The answer is (B).", "B", "correct", _CAPITAL),
    Example("<think>Perhaps A? No.</think>**Answer: B**", "B", "correct", _CAPITAL),
    Example("So \\boxed{\\text{B}}.", "(b)", "correct", _CAPITAL),
    Example("Option B is correct, since A is in England.", "B", "correct", _CAPITAL),
    Example("The answer is A. No, wait: the answer is B.", "B", "correct", _CAPITAL),
    Example("It must be Paris.", _CITIES, "correct", _CAPITAL),
    Example("B) Paris", {"answer": 1, "options": _CITIES["options"]}, "correct", _CAPITAL),
    Example("The answer is D.", {"answer": "Bonn", "options": _CITIES["options"]}, "correct"),
    Example("The answer is A.", "B", "wrong", _CAPITAL),
    Example("B) London", _CITIES, "wrong", _CAPITAL),
    Example("The answer is B or C.", "B", "wrong", _CAPITAL),
    Example("A, B, C, D, E", "E", "wrong", _CAPITAL),
    Example("Answer: A\nAnswer: B\nAnswer: C", "C", "wrong", _CAPITAL),
    Example("<think>The answer is B", "B", "unparseable", _CAPITAL),
    Example("It is a dog.", "A", "unparseable", _CAPITAL),
    Example("The answer is not B.", "B", "unparseable", _CAPITAL),
    Example("The answer is B.", "F", "error", _CAPITAL, options=_LETTERS),
    Example("The answer is B.", {"answer": "Oslo", "options": _CITIES["options"]}, "error"),
    Example("The answer is B.", {"answer": "B", "options": "Paris"}, "error"),
]
