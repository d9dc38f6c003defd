"""Which names in tests are the candidate's, and which of those are classes."""

from __future__ import annotations

import ast

import pytest

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
