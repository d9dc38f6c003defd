"""Mistakes in references of the code verifier are refused, and named."""

from __future__ import annotations

from typing import Any

import pytest

from grpo_core.errors import VerifierError
from grpo_verifiers.code import CodeVerifier

CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("assert f(1)", 'a text, not an object with fields; tests go into {"tests": "assert ..."}'),
        (3, "it is a number, not an object"),
        (None, "not an object"),
        ({}, "no tests and no cases"),
        ({"tests": "x = 1"}, "assert nothing"),
        ({"tests": "assert True"}, "assert nothing"),
        ({"tests": "assert callable(f)"}, "assert nothing"),
        ({"tests": "for x in []:\n    assert f(x) == 1"}, "assert nothing"),
        ({"tests": "if False:\n    assert f(1) == 1"}, "assert nothing"),
        ({"tests": "def test_f():\n    return\n    assert f(1) == 1"}, "assert nothing"),
        ({"tests": "assert (f(1) == 1, 'message')"}, "true for every program"),
        ({"tests": "assert lambda: f(1) == 1"}, "true for every program"),
        ({"tests": "assert f"}, "true for every program"),
        ({"tests": "def help():\n    assert f(1)\nassert f(2)"}, "nothing calls it"),
        ({"tests": "assert isclose(sqrt(4), 2)"}, "name the candidate's function"),
        ({"cases": [{"stdin": "1", "stdout": "\n"}]}, "expects any output"),
        ({"cases": [{"stdin": "", "stdout": "1"}], "tolerance": float("inf")}, "tolerance"),
        ({"cases": [{"stdin": "", "stdout": "1"}], "tolerance": float("nan")}, "tolerance"),
        ({"tests": "assert 1 == 1"}, "never call the candidate"),
        ({"tests": "assert f(1) =="}, "cannot be parsed"),
        ({"tests": 3}, "tests is a text"),
        ({"tests": CHECK}, "need entry_point"),
        ({"tests": "assert eval(f(1)) == 2"}, "eval"),
        ({"tests": "assert f(1)", "cases": []}, "one of them"),
        ({"tests": "assert f(1)", "language": "cpp"}, "Python asserts"),
        (
            {"language": "cobol", "cases": [{"stdin": "", "stdout": "1"}]},
            "Unknown language 'cobol'",
        ),
        ({"test": "assert f(1)", "tsk_id": 3}, "unknown field 'tsk_id'"),
        ({"cases": "x"}, "cases is a list"),
        ({"cases": [{}]}, "case 1: it has neither"),
        ({"cases": [{"call": "f(1)"}]}, "one of equals"),
        ({"cases": [{"call": "f(1)", "equals": 1, "raises": "E"}]}, "one of equals"),
        ({"cases": [{"call": "f(x)", "equals": 1}]}, "name x"),
        ({"cases": [{"call": "a.f(1)", "equals": 1}]}, "not the call of a function"),
        ({"cases": [{"call": "f(", "equals": 1}]}, "cannot be parsed"),
        ({"cases": [{"call": "f(1)", "literal": "f()"}]}, "case 1: malformed"),
        ({"cases": [{"stdin": "1"}]}, "output of a program"),
        ({"cases": [{"stdin": "1", "stdout": "1", "std": 1}]}, "unknown field 'std'"),
        ({"cases": [{"call": "f()", "equals": 1}, {"stdin": "", "stdout": ""}]}, "mixes"),
        ({"inputs": [[1]], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": [[1]], "outputs": [1]}, "input of a program is a text"),
        ({"fn_name": "f", "inputs": [1], "outputs": [1]}, "lists of arguments"),
        ({"fn_name": "a b", "inputs": [[1]], "outputs": [1]}, "name of a function"),
        ({"input_output": "{"}, "no JSON"),
        ({"cases": [{"input": "1", "output": "1", "testtype": "functional"}]}, "need fn_name"),
        ({"tests": "assert f(1)", "tolerance": -1}, "tolerance"),
        ({"tests": "assert f(1)", "in_place": 1}, "in_place"),
        ({"language": "cpp", "cases": [{"call": "f(1)", "equals": 1}]}, "cannot be called"),
        (
            {"language": "javascript", "cases": [{"call": "f(a=1)", "equals": 1}]},
            "no keyword arguments",
        ),
        ({"language": "javascript", "cases": [{"call": "f({1})", "equals": 1}]}, "JSON"),
        ({"cases": [{"call": "f(1)", "equals": 1, "tolerance": "x"}]}, "case 1"),
        ({"tests": {1}}, "not plain JSON"),
    ],
)
def test_mistakes_in_references(reference: Any, why: str) -> None:
    with pytest.raises(VerifierError, match="cannot be read: .*" + why.replace("(", r"\(")):
        CodeVerifier().check_reference(reference)
