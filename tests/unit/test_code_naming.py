"""Which names in tests are the candidate's, and which of those are classes."""

from __future__ import annotations

import ast

import pytest

from grpo_verifiers.code.library_names import Ambiguous, library_names
from grpo_verifiers.code.naming import class_names, free_names


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("assert f(1) == g(2)", {"f", "g"}),
        ("import math\nx = 3\nassert f(x) == math.pi", {"f"}),
        ("from a import b as c\nfor i in range(3):\n    assert f(i) == c", {"f"}),
        ("def help(x):\n    return x\nassert help(f(1))", {"f", "x"}),
        ("assert candidate(1) == sorted([1])", set()),
        ("class T:\n    pass\nwith f() as y:\n    assert y", {"f"}),
    ],
)
def test_free_names(tests: str, names: set[str]) -> None:
    assert free_names(ast.parse(tests)) == names


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("s = Stack()\ns.push(1)", {"Stack"}),
        ("s = stack()\ns.push(1)", {"stack"}),
        ("assert Stack().peek() is None", {"Stack"}),
        ("assert isinstance(f(1), Shape)", {"Shape"}),
        ("assert isinstance(f(1), (Shape, Other))", {"Shape", "Other"}),
        ("assert Vector(1) + Vector(2) == Vector(3)", {"Vector"}),
        ("v = Vector(1)\nassert -v == Vector(-1)", {"Vector"}),
        ("x = f(1)\nassert -x == Sum(-1)", set()),
        ("s = solution.Stack()\ns.push(1)", {"Stack"}),
        ("class TestIt:\n    def test(self):\n        self.s = S()\n        self.s.push(1)", {"S"}),
        # Functions, whatever their letters: MBPP has many of these.
        ("assert Sum(3) == 6", set()),
        ("assert abs(Average([1]) - 1.5) < 1e-6", set()),
        ("assert 3 in Extract([3])", set()),
        ("assert f(1) == f(2)", set()),
        ("x = Split('a')\nx.sort()\nassert x.count('a') == 1", set()),
        ("assert Name('a').upper() == 'A'", set()),
    ],
)
def test_class_names(tests: str, names: set[str]) -> None:
    assert class_names(ast.parse(tests), ast.parse("")) == names


def test_the_prompts_classes_are_classes() -> None:
    assert class_names(ast.parse("assert f(1)"), ast.parse("class Node: pass")) == {"Node"}


@pytest.mark.parametrize(
    ("tests", "entry_point", "names"),
    [
        ("assert math.isclose(f(1), pi)", None, {"math", "pi"}),
        ("assert Counter(f(1)) == Counter('ab')", None, {"Counter"}),
        ("assert np.allclose(f(1), [1])", None, {"np"}),
        ("import math\nassert f(1) == math.pi", None, set()),
        # What is called like a function of the library, and is what is tested.
        ("assert gcd(4, 6) == 2", None, set()),
        ("assert isclose(gcd(4, 6), 2)", "gcd", {"isclose"}),
        ("from solution import f\nassert isclose(f(4), 2)", None, {"isclose"}),
        ("q = queue()\nassert q.get() == 1", None, set()),
    ],
)
def test_library_names(tests: str, entry_point: str | None, names: set[str]) -> None:
    assert library_names(ast.parse(tests), entry_point).keys() == names


def test_tests_that_call_only_the_library_need_an_entry_point() -> None:
    with pytest.raises(Ambiguous, match="gcd and isclose"):
        library_names(ast.parse("assert isclose(gcd(4, 6), 2)"), None)
