"""Which asserts of tests are executed, and which of them have to be."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from grpo_verifiers.code.guest import reaching


def executed(source: str, **names: Any) -> reaching.Marks:
    """The marks of a source after it has been executed."""
    tree = ast.parse(source)
    marks = reaching.mark(tree)
    space = {reaching.REACHED: marks.reach, reaching.ORDERED: reaching.ordered, **names}
    exec(compile(ast.fix_missing_locations(tree), "<tests>", "exec"), space)
    return marks


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("assert 1", 0),
        ("for x in items:\n    assert x", 2),
        ("while items:\n    assert items.pop()", 2),
        ("def f():\n    assert items", 2),
        ("def f():\n    if not items:\n        return\n    assert items\nf()", 4),
        # These are left out by the tests' own will.
        ("if items:\n    assert 1", 0),
        ("try:\n    items[0]\n    assert 1\nexcept IndexError:\n    pass", 0),
        ("try:\n    items[0]\nexcept IndexError:\n    assert 1\nelse:\n    assert False", 0),
        ("match items:\n    case [x]:\n        assert x", 0),
    ],
)
def test_asserts_that_must_be_reached(source: str, line: int) -> None:
    assert executed(source, items=[]).missing() == line


@pytest.mark.parametrize(
    ("source", "num"),
    [
        ("assert 1\nassert 2", 2),
        ("assert all(x > 0 for x in [1, 2]), 'no'", 1),
        ("for x in [1, 2, 3]:\n    assert x", 3),
        ("try:\n    1 / 0\n    assert False\nexcept ZeroDivisionError:\n    pass", 1),
        ("try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass", 0),
        ("case.assertEqual(1, 1)", 1),
        ("case.equal(1, 1)", 0),
    ],
)
def test_counting(source: str, num: int) -> None:
    class Case:
        def assertEqual(self, left: int, right: int) -> None:
            assert left == right

        equal = assertEqual

    assert executed(source, case=Case()).fresh == num


def test_functions_that_assert_through_others() -> None:
    source = "def a():\n    assert 1\ndef b():\n    a()\ndef c():\n    b()\ndef d():\n    pass"
    assert executed(source).asserting == {"a", "b", "c"}


@pytest.mark.parametrize("order", ["x < 1", "not 1 > x", "not 0 <= x <= 2", "not x >= 1"])
def test_nan_has_no_order(order: str) -> None:
    with pytest.raises(ValueError, match="nan"):
        executed(f"assert {order}", x=float("nan"))


@pytest.mark.parametrize("order", ["x == 1", "0 < x <= 1", "1 <= x < 2 and x in [1]", "x is x"])
def test_order_is_as_it_was(order: str) -> None:
    assert executed(f"assert {order}", x=1).fresh == 1
    if "is" not in order:
        with pytest.raises(AssertionError):
            executed(f"assert {order}", x=3)
