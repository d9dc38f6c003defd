"""What a program wrote against what it should have written; verdicts from results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.types import Status
from grpo_verifiers.code.outputs import difference
from grpo_verifiers.code.results import MAX_LISTED, Report, TestResult
from grpo_verifiers.code.shown import excerpt, printable, shorten, shown


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("3\n", "3"),
        ("3", "3\n\n"),
        ("3  \n4\t\n", "3\n4\n"),
        ("1  2\n", "1 2\n"),
        ("  3\n", "3\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("", "\n"),
    ],
)
def test_white_space_that_does_not_count(found: str, expected: str) -> None:
    assert difference(found, expected) == ""


@pytest.mark.parametrize(
    ("found", "expected", "why"),
    [
        ("4\n", "3\n", "line 1 is '4', expected '3'"),
        ("", "3\n", "printed nothing, expected '3'"),
        ("3\n4\n", "3\n", "printed 2 lines, expected 1"),
        ("3\n\n4\n", "3\n4\n", "line 2 is '', expected '4'"),
        ("12\n", "1 2\n", "line 1"),
        ("Yes\n", "YES\n", "line 1"),
        ("3.0\n", "3\n", "line 1"),
    ],
)
def test_differences(found: str, expected: str, why: str) -> None:
    assert why in difference(found, expected)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("0.33333", "0.333331", True),
        ("x 3", "x 3.00001", True),
        ("0.34", "0.333331", False),
        ("nan", "1", False),
        ("inf", "inf", True),
        ("3 4", "3", False),
        ("x", "y", False),
    ],
)
def test_tolerance(found: str, expected: str, same: bool) -> None:
    assert (difference(found, expected, 1e-4) == "") is same


@given(st.text(), st.text(), st.sampled_from([0.0, 1e-3]))
def test_any_output_equals_itself_and_is_compared(found: str, expected: str, size: float) -> None:
    assert difference(found, found, size) == ""
    assert (difference(found, expected, size) == "") == (difference(expected, found, size) == "")


PASSED, FAILED = TestResult.of("a", ""), TestResult.of("b", "it is 3")
NOT_RUN = TestResult("c", "not run")


def test_correct_only_if_every_test_passed() -> None:
    verdict = Report([PASSED, PASSED]).verdict(partial=True, details={})
    assert (verdict.status, verdict.score, verdict.reason) == (Status.CORRECT, 1, "2 tests passed")
    for results in ([PASSED, FAILED], [PASSED, NOT_RUN], [FAILED], []):
        assert Report(results).verdict(partial=True, details={}).status is Status.WRONG
    assert Report([PASSED], "syntax error").verdict(partial=True, details={}).score == 0


def test_partial_marks_are_the_share_of_passed_tests() -> None:
    report = Report([PASSED, FAILED, PASSED, NOT_RUN])
    assert report.verdict(partial=True, details={}).score == 0.5
    verdict = report.verdict(partial=False, details={"x": 1})
    assert verdict.score == 0
    assert verdict.reason == "test 2 of 4 failed: b: it is 3"
    assert verdict.details["passed"] == 2 and verdict.details["x"] == 1
    assert verdict.details["tests"][1] == {
        "test": 2, "name": "b", "status": "failed", "seconds": 0.0, "problem": "it is 3",
    }  # fmt: skip


def test_details_list_failures_first_and_stay_short() -> None:
    results = [PASSED] * 500 + [FAILED] + [PASSED] * 500
    listed = Report(results).verdict(partial=False, details={}).details["tests"]
    assert len(listed) == MAX_LISTED
    assert [item["test"] for item in listed if item["status"] == "failed"] == [501]


@given(st.text(), st.binary())
def test_what_is_shown_can_be_written_and_printed(text: str, data: bytes) -> None:
    for result in (shorten(text), printable(text), excerpt(data), shown([text, data])):
        result.encode("utf-8")
        assert all(char.isprintable() or char == "\n" for char in result)


def test_lone_surrogates_and_escapes_are_shown_escaped() -> None:
    assert printable("\ud800\x1b[31m") == "\\ud800\\x1b[31m"
    assert len(shorten("x" * 10_000)) == 200
    assert len(shown({i: "y" * 1000 for i in range(1000)})) < 2000
