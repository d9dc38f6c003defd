"""The regex verifier: what must match, what must not, what a group must say, and at what cost."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Sample
from grpo_core.errors import ConfigError, VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.testing import check_conformance, check_verifier
from grpo_core.types import Json, Verdict
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from grpo_verifiers.regex import RegexVerifier
from grpo_verifiers.regex.patterns import PatternError, compile_pattern

NUMBER: dict[str, Any] = {"pattern": r"answer: *(?P<value>-?[0-9]+)", "group": "value"}


def judge(completion: str, reference: Json = "", **options: Any) -> Verdict:
    verifier = RegexVerifier(RegexVerifier.Config(**options))
    [verdict] = verifier.verify([Sample("", completion, reference)])
    return verdict


@pytest.mark.slow
def test_conformance() -> None:
    check_conformance("regex")


def test_contract() -> None:
    check_verifier(
        RegexVerifier,
        accept=[("answer: 42", 42), ("answer: 1, no, answer: 42", "42"), ("answer:-7", "-7")],
        reject=[("answer: 43", 42), ("42", 42), ("", 42), ("<think>answer: 42", 42)],
        options=NUMBER,
    )


def test_all_patterns_must_match() -> None:
    patterns = [r"\bdear\b", r"\?\s*\Z"]
    assert judge("Oh dear, is it?", pattern=patterns).is_correct
    assert judge("Oh dear.", pattern=patterns).status == "wrong"
    assert judge("Is it?", pattern=patterns).status == "wrong"
    assert judge("Oh DEAR, is it?", pattern=patterns, ignore_case=True).is_correct


def test_what_must_not_match() -> None:
    options = {"pattern": "[a-z]", "must_not": ["!", "as an ai"], "ignore_case": True}
    assert judge("Hello.", **options).is_correct
    verdict = judge("As an AI, hello.", **options)
    assert verdict.status == "wrong" and verdict.details == {"found": "As an AI"}


@pytest.mark.parametrize(
    ("mode", "completion", "correct"),
    [
        ("search", "x 12 y", True),
        ("match", "12 y", True),
        ("match", "x 12", False),
        ("fullmatch", "12", True),
        ("fullmatch", "12 y", False),
    ],
)
def test_modes(mode: str, completion: str, correct: bool) -> None:
    assert judge(completion, pattern="[0-9]+", mode=mode).is_correct == correct
    with_group = judge(completion, "12", pattern="([0-9]+)", group=1, mode=mode)
    assert with_group.status == ("correct" if correct else "unparseable")


@pytest.mark.parametrize(
    ("occurrence", "reference", "status"),
    [
        ("last", 3, "correct"),
        ("last", 1, "wrong"),
        ("first", 1, "correct"),
        ("first", 3, "wrong"),
        ("only", 1, "wrong"),
        ("only", 3, "wrong"),
    ],
)
def test_occurrences(occurrence: str, reference: int, status: str) -> None:
    text = "answer: 1, or answer: 2, or answer: 3"
    assert judge(text, reference, **NUMBER, occurrence=occurrence).status == status
    assert judge("answer: 4; answer: 4", 4, **NUMBER, occurrence=occurrence).is_correct


def test_a_group_that_took_no_part_is_no_answer() -> None:
    assert judge("b", "a", pattern="(a)|b", group=1).status == "unparseable"
    assert judge("A", " a ", pattern="(.)", group=1, ignore_case=True).is_correct


def test_the_reference_can_hold_the_pattern() -> None:
    assert judge("2026-11-22", r"\b[0-9]{4}-").is_correct
    assert judge("a b", ["a", "b"]).is_correct and not judge("a", ["a", "b"]).is_correct
    rules: dict[str, Json] = {"pattern": "x=([0-9])", "group": 1, "answer": 7, "must_not": "or"}
    assert judge("x=7", rules).is_correct
    assert judge("x=8", rules).status == "wrong"
    assert judge("x=8 or x=7", rules).status == "wrong"
    assert judge("x=7!", rules, must_not="!").status == "wrong"


@given(st.text(), st.text())
def test_a_literal_pattern_is_found_as_python_finds_it(text: str, literal: str) -> None:
    if literal:
        found = judge(text, re.escape(literal), part="whole").is_correct
        assert found == (literal in text.strip())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "["}, "no regular expression"),
        ({"pattern": ""}, "1 to 10000 characters"),
        ({"pattern": ["a", ""]}, "1 to 10000 characters"),
        ({"pattern": "(?:x*)"}, "matches the empty text"),
        ({"pattern": "(?!x)"}, "must_not"),
        ({"pattern": "x", "group": 1}, "has no group 1"),
        ({"pattern": "(x)", "group": "y"}, "has no group 'y'"),
        ({"group": 1}, "there is no regex.pattern"),
        ({"pattern": "(a+)+$"}, "takes exponential time"),
        ({"pattern": "x", "must_not": r"(\w+\s?)*:"}, "takes exponential time"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        judge("x", **options)


@pytest.mark.parametrize(
    "reference",
    [
        None, 1, True, "", [], "[", "x*", [1], {"pattern": "x", "group": 1}, {"group": 1},
        {"pattern": "x", "answer": "x"}, {"pattern": "x", "flags": "i"}, {"pattern": "(a|a)*$"},
        {"pattern": "(x)", "group": 1, "answer": None}, {"pattern": "x", "group": [], "answer": 1},
    ],
)  # fmt: skip
def test_references_that_are_refused(reference: Any) -> None:
    with pytest.raises(VerifierError, match="cannot be read"):
        RegexVerifier().check_reference(reference)
    assert judge("x", reference).status == "error"


@pytest.mark.parametrize("reference", [None, True, {"a": 1}, 10**5000], ids=type)
def test_a_group_needs_something_to_be_compared_with(reference: Any) -> None:
    assert judge("answer: 1", reference, **NUMBER).status == "error"


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$", r"(x+x+)+y", r"(\d+,?)+;", r"answer:\s*(\w+\s?)*$", r"^(\s*\w+\s*)*$",
        r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(.*a){20}$", r"(?:final )*(?:final )*x|(b|b)*c",
    ],
)  # fmt: skip
def test_exponential_patterns_are_found(pattern: str) -> None:
    for mode in ("search", "fullmatch"):
        with pytest.raises(PatternError, match="exponential"):
            compile_pattern(pattern, False, mode)


def test_ordinary_patterns_are_not() -> None:
    ordinary = [
        r"(?:[a-z]+,)*[a-z]+$", r"answer is\s+(-?\d+(?:\.\d+)?)", r"\s+$", r"(?m)^Answer:\s*(.+)$",
        r"(?s).*<answer>(.*?)</answer>", r"^(?=.*\d)(?=.*[a-z]).{8,}$", r"(\d+)(?:\.\d+)?\s*%?\Z",
        r"(?i)\b(?:yes|no|maybe)\b", r"[\w.+-]+@[\w-]+\.[\w.-]+", r"\\boxed\{([^{}]*)\}", r"^\w$",
    ]  # fmt: skip
    started = time.process_time()
    for pattern in ordinary:
        for mode in ("search", "match", "fullmatch"):
            compile_pattern(pattern, True, mode)
    assert time.process_time() - started < 10  # some hundredths


def test_a_bad_pattern_is_tried_once() -> None:
    for _ in range(200):  # each trial takes a third of a second
        with pytest.raises(PatternError):
            compile_pattern("(c+)+$", False, "search")


def test_a_pattern_that_slipped_through_costs_one_verdict() -> None:
    """The trials do not guess what comes before the nested repetition; the deadline ends it."""
    options = {"pattern": "(?:Final )?answer is ((a|b)+)+$"}
    texts = ["answer is " + "a" * 60 + "!", "answer is ab"]
    spec = VerifierSpec("regex", options)
    with VerifierPool([spec], PluginSources(), workers=1, deadline=1.0) as pool:
        futures = [pool.submit("regex", Sample("", text, "")) for text in texts]
        hostile, honest = (future.result() for future in futures)
    assert hostile.status == "wrong" and "within 1 s" in hostile.reason
    assert honest.is_correct
