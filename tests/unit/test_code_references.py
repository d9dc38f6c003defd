"""How references are read: which tests become checks, and which mistakes are named."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import VerifierError
from grpo_verifiers.code import CodeVerifier
from grpo_verifiers.code.checks import Call, Check, Equals, Outcome
from grpo_verifiers.code.problems import Problem, read_problem

CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"


def value(result: Any) -> Outcome:
    return Outcome("value", result)


def read_checks(tests: str, entry_point: str | None = "f") -> tuple[Check, ...]:
    return read_problem({"tests": tests, "entry_point": entry_point}).checks


def passes(tests: str, *results: Any) -> bool:
    """Whether a single assert holds if the candidate's calls return these values."""
    [check] = read_checks(tests)
    assert len(check.calls) == len(results)
    return not check.problem([value(result) for result in results])


@pytest.mark.parametrize(
    ("test", "good", "bad"),
    [
        ("assert f(1) == 2", [2, 2.0], [3, "2", None, [2]]),
        ("assert f(1) == True", [True, 1], [2, "True"]),
        ("assert f(1) is True", [True], [1, "x"]),
        ("assert f(1) is None", [None], [0, ""]),
        ("assert f(1) != 2", [3, "2"], [2, 2.0]),
        ("assert not f(1)", [0, "", [], None], [1, "0"]),
        ("assert f(1)", [1, "a"], [0, ""]),
        ("assert f(1) == [1, (2,)]", [[1, (2,)]], [[1, [2]], (1, (2,))]),
        ("assert f(1) == {1: {2}}", [{1: {2}}], [{1: [2]}]),
        ("assert abs(f(1) - 0.3) < 1e-6", [0.3, 0.3000001], [0.4, None, "0.3"]),
        ("assert round(f(1), 2) == 0.33", [1 / 3], [0.34, "a"]),
        ("assert 0 < f(1) <= 3", [1, 3], [0, 4, None]),
        ("assert f(1) in (1, 2)", [1, 2], [3]),
        ("assert f(1) == -1 or f(2) == 3", [], []),
        ("assert sorted(f(1)) == [1, 2]", [[2, 1], {1, 2}], [[1, 2, 2], 3, ["a", 1]]),
        ("assert set(f(1)) == set([1])", [[1, 1], (1,)], [[2], [[1]]]),
        ("assert len(f(1)) == 2 and f(1)[0] == 1", [], []),
        ("assert isinstance(f(1), int)", [1, True], [1.0]),
        ("assert type(f(1)) is int", [1], [True]),
        ("import math\nassert math.isclose(f(1), math.pi)", [3.141592653589793], [3.14]),
        ("assert f(1)[::-1][0] == 3", [[1, 3]], [[3, 1], [], 3]),
        ("assert f(1) == 2 ** 10", [1024], [20]),
        ("assert all(f(1))", [[1]], [[0]]),
        ("assert f(float('inf')) == float('inf')", [float("inf")], [1e308]),
        ("assert f(1) == float('nan')", [], [float("nan")]),
        ("assert not abs(f(1) - 1.5) > 1e-6", [1.5], [float("nan"), 1.6]),
    ],
)
def test_asserts_become_checks(test: str, good: list[Any], bad: list[Any]) -> None:
    [check] = read_checks(test)
    if len(check.calls) == 1:
        assert all(passes(test, result) for result in good)
        assert not any(passes(test, result) for result in bad)


def test_calls_of_an_assert_are_all_made_but_judged_lazily() -> None:
    [check] = read_checks("assert f(1) == 1 or f(2) == 2")
    broken = Outcome("raised", None, "ValueError: no", ("ValueError",))
    assert [call.arguments for call in check.calls] == [(1,), (2,)]
    assert check.problem([value(1), broken]) == ""
    assert check.problem([value(0), broken]) == "ValueError: no"


def test_what_a_check_says() -> None:
    [check] = read_checks("assert f([1], k='a') == {2: None}")
    assert check.calls == (Call("f", ([1],), {"k": "a"}),)
    assert check.problem([value(3)]) == "f([1], k='a') gave 3, expected {2: None}"
    assert check.problem([value([None] * 50)]).startswith("f([1], k='a') gave [None, None")
    assert check.problem([Outcome("lost", problem="the program exited early")]) == (
        "the program exited early"
    )


@pytest.mark.parametrize(
    "tests",
    [
        CHECK,
        'METADATA = {"a": [1]}\n\n' + CHECK + "    assert True, 'fine'\n",
        '"""Tests."""\n' + CHECK + "\ncheck(f)\n",
        "import math\n" + CHECK,
        "from solution import f\nassert f(1) == 2",
        "assert candidate(1) == 2",
    ],
)
def test_humaneval_tests_become_checks(tests: str) -> None:
    [check] = read_checks(tests)
    assert check.calls == (Call("f", (1,)),)


@pytest.mark.parametrize(
    "tests",
    [
        "for i in [1]:\n    assert f(i) == 2",
        "x = 3\nassert f(x) == 2",
        "assert f(g(1)) == 2",
        "assert f(lambda x: x) == 2",
        "assert f(*[1]) == 2",
        "assert f(1) == h.value",
        "from math import gcd\nassert f(1) == gcd(2, 4)",
        "import solution as s\nassert s.f(1) == 2",
        "assert [f(1)] == [x for x in [2]]",
        "def test_f():\n    assert f(1) == 2",
        "assert f(1).x == 2",
        "assert str(f(1)) == '2'",
        "assert f(10 ** 10 ** 10) == 1",
        "assert round(f(1), f(2)) == 1",
        "assert sum(f(1), []) == []",
        "assert sorted(f(1), key=len) == []",
        "assert {**f(1), 'b': 2} == {}",
        "assert isclose(f(1), 2)",
        "assert f('ab') == Counter('ab')",
        "from math import *\nassert f(16) == sqrt(16)",
        "assert f('a' * 10**9) == 1",
        "assert False",
        "assert f(1) == f'{1}'",
        "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass",
    ],
)
def test_other_tests_need_a_process_of_their_own(tests: str) -> None:
    problem = read_problem({"tests": tests, "entry_point": "f"})
    assert problem.checks == () and problem.tests == tests


def test_what_the_prompt_defines_is_not_the_candidates() -> None:
    prompt = "def double(x):\n    return 2 * x\n\ndef f(x):\n"
    reference = {"tests": "assert f(3) == double(3)", "entry_point": "f"}
    assert read_problem(reference).checks
    assert not read_problem({**reference, "prompt": prompt}).checks


@pytest.mark.parametrize(
    "results",
    [
        [Fraction(1, 3)] * 101,
        [Fraction(1, 1 << 3000)],
        [Decimal("1" * 1000)],
    ],
)
def test_sums_of_fractions_are_bounded(results: list[Any]) -> None:
    [check] = read_checks("assert sum(f(1)) == 3")
    assert "TooLarge" in check.problem([value(results)])
    assert check.problem([value([Fraction(1, 3)] * 9)]) == ""


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ("x = [1]\nsort(x)\nassert x == [1]", True),
        ("for x in [[1]]:\n    sort(x)\n    assert x == [1]", True),
        ("sort([1])\nassert sort([1]) == [1]", False),
        ("x = 1\nprint(x)\nassert f(x)", False),
    ],
)
def test_tests_that_look_at_their_arguments(tests: str, expected: bool) -> None:
    assert read_problem({"tests": tests}).in_place is expected


@pytest.mark.parametrize(
    ("reference", "function", "arguments", "good"),
    [
        ({"cases": [{"call": "f(1, [2])", "equals": {"a": 1}}]}, "f", (1, [2]), {"a": 1}),
        ({"cases": [{"call": "f(1)", "literal": "(1, {2})"}]}, "f", (1,), (1, {2})),
        ({"cases": [{"call": "f(true, null)", "equals": 1}]}, "f", (True, None), 1),
        ({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]}, "f", (1, 2), 3),
        ({"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]}, "f", (1, 2), [3]),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [[1, 2]]}, "f", (1,), (1, 2)),
        ({"fn_name": "f", "inputs": [[1]], "outputs": [{"1": 2}]}, "f", (1,), {1: 2}),
        (
            {"input_output": json.dumps({"fn_name": "f", "inputs": [[1]], "outputs": [2]})},
            "f", (1,), 2,
        ),
        (
            {"entry_point": "f", "cases": [{"input": '[1]\n"a"', "output": "[2]"}]},
            "f", ([1], "a"), [2],
        ),
    ],
)  # fmt: skip
def test_call_cases(reference: Any, function: str, arguments: Any, good: Any) -> None:
    [check] = read_problem(reference).checks
    assert check.calls == (Call(function, arguments),)
    assert check.problem([value(good)]) == ""
    assert check.problem([value("no")]) != ""


def test_raising_is_judged_by_the_names_of_classes() -> None:
    [check] = read_problem({"cases": [{"call": "f(1)", "raises": "LookupError"}]}).checks
    raised = Outcome("raised", None, "KeyError: 1", ("KeyError", "LookupError"))
    assert check.problem([raised]) == ""
    assert "expected LookupError" in check.problem([value(1)])
    assert check.problem([Outcome("raised", None, "E: 1", ("E", "ValueError"))]) != ""
    assert check.problem([Outcome("lost", problem="the program timed out")]) != ""


@pytest.mark.parametrize(
    ("found", "expected", "close"),
    [
        (0.3000001, 0.3, True),
        (0.31, 0.3, False),
        ([1.0, (2.0,)], [1, (2,)], True),
        ([1.0], (1.0,), False),
        ({"a": 1.00000001}, {"a": 1}, True),
        ({"b": 1.0}, {"a": 1.0}, False),
        ("1.0", 1.0, False),
        (True, 1.0, True),
        (float("nan"), 1.0, False),
        (float("inf"), float("inf"), True),
        (10**400, 1.0, False),
        (1.0, 10**400, False),
    ],
)
def test_tolerance(found: Any, expected: Any, close: bool) -> None:
    check = Check("case", (Call("f"),), Equals((expected,), 1e-6))
    assert (check.problem([value(found)]) == "") is close


def test_program_cases() -> None:
    ours = read_problem({"cases": [{"stdin": "1\n", "stdout": "2\n", "name": "one"}]})
    apps = read_problem({"inputs": ["1\n", ["1", "2"]], "outputs": ["2\n", ["2", "3"]]})
    assert [(case.name, case.stdin, case.stdout) for case in ours.cases] == [("one", "1\n", "2\n")]
    assert [case.stdin for case in apps.cases] == ["1\n", "1\n2"]
    assert isinstance(ours, Problem) and not ours.checks and not ours.tests


@given(
    st.dictionaries(
        st.sampled_from(["tests", "cases", "inputs", "outputs", "language", "fn_name", "prompt"]),
        st.none() | st.text(max_size=20) | st.lists(st.text(max_size=5) | st.integers()),
    )
)
def test_any_reference_is_read_or_refused(reference: Any) -> None:
    with contextlib.suppress(VerifierError):
        CodeVerifier().check_reference(reference)


def test_unknown_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpo_verifiers.code.languages.registry._PATH", "/nowhere")
    reference = {"language": "cpp", "cases": [{"stdin": "", "stdout": "1"}]}
    with pytest.raises(VerifierError, match=r"g\+\+.*apt-get install g\+\+"):
        CodeVerifier().check_reference(reference)


def test_the_constructor_is_light_and_the_deadline_holds_the_limits() -> None:
    verifier = CodeVerifier(CodeVerifier.Config(timeout=2, total_timeout=10))
    assert verifier.deadline > 12
    assert verifier.placement == "workers"


HUMAN_EVAL = {
    "task_id": "HumanEval/999",
    "prompt": 'def f(x):\n    """Adds one."""\n',
    "canonical_solution": "    return x + 1\n",
    "test": CHECK,
    "entry_point": "f",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function that adds one.",
    "code": "def f(x): return x + 1",
    "test_list": ["assert f(1) == 2"],
    "test_setup_code": "",
    "challenge_test_list": ["assert f(-1) == 0"],
}
SANITIZED_MBPP = {
    "source_file": "Benchmark.ipynb",
    "task_id": 2,
    "prompt": "Write a function that adds one.",
    "code": "def f(x): return x + 1",
    "test_imports": [],
    "test_list": ["assert f(1) == 2"],
}


@pytest.mark.parametrize("row", [HUMAN_EVAL, MBPP, SANITIZED_MBPP])
def test_whole_rows_of_public_sets_are_references(row: dict[str, Any]) -> None:
    """What is no test, such as the solution, changes nothing."""
    besides = {"task_id", "canonical_solution", "text", "code", "source_file"}
    needed = {key: value for key, value in row.items() if key not in besides}
    assert needed != row
    problem, same = read_problem(row), read_problem(needed)
    assert problem.tested == same.tested == "f" and problem.prompt == same.prompt
    assert problem.tests == same.tests and problem.checks
    assert [check.name for check in problem.checks] == [check.name for check in same.checks]
