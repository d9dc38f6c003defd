"""Counts the asserts of tests that are really executed.

A loop over nothing, a branch that is not taken and a function that nobody calls assert nothing, and
the candidate may be the one who chose so. Every assert is rewritten to say that it was reached.
"""

from __future__ import annotations

import ast
from typing import Any

REACHED = "__grpo_reached__"
ORDERED = "__grpo_ordered__"
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_RAISING = ("raises", "assertRaises", "assertRaisesRegex")


class Marks:
    """What is known of the asserts of a source.

    Attributes:
        required: lines of those that must be reached, by their number.
        reached: numbers of those that were.
        fresh: how many were, since the test began.
        thread_errors: what has ended a thread since then.
        asserting: names of functions that assert, or call one that does.
        of_function: numbers of the asserts in a function, by its name.
    """

    def __init__(self) -> None:
        self.required: dict[int, int] = {}
        self.reached: set[int] = set()
        self.fresh = 0
        self.thread_errors: list[BaseException] = []
        self.asserting: set[str] = set()
        self.of_function: dict[str, set[int]] = {}

    def reach(self, number: int, value: Any) -> Any:
        """Note that an assert was evaluated, to this value."""
        self.reached.add(number)
        self.fresh += 1
        return value

    def missing(self) -> int:
        """The line of an assert that had to be reached and was not; 0 if there is none."""
        left = [line for number, line in self.required.items() if number not in self.reached]
        return min(left, default=0)


def ordered(value: Any) -> Any:
    """An operand of `<` or the like: nan, of which every order is false, is none.

    Raises:
        ValueError: for nan.
    """
    if isinstance(value, float) and value != value:
        raise ValueError("nan is neither smaller nor larger than anything")
    return value


def mark(tree: ast.Module) -> Marks:
    """Rewrite the asserts of a source, in place, to call `REACHED`; and order to call `ORDERED`."""
    marker = _Marker()
    marker.visit(tree)
    marks = marker.marks
    marks.asserting = {name for name, numbers in marks.of_function.items() if numbers}
    while grown := {
        name
        for name, called in marker.calls.items()
        if called & marks.asserting and name not in marks.asserting
    }:
        marks.asserting |= grown
    return marks


class _Marker(ast.NodeTransformer):
    """Rewrites asserts, and knows which of them may be left out by the tests' own will."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.calls: dict[str, set[str]] = {}
        self._functions: list[str] = []
        self._optional = 0
        self._number = 0

    def visit_FunctionDef(self, node: Any) -> Any:
        self.marks.of_function.setdefault(node.name, set())
        self._functions.append(node.name)
        outside, self._optional = self._optional, 0
        self.generic_visit(node)
        self._optional = outside
        self._functions.pop()
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assert(self, node: ast.Assert) -> Any:
        is_constant = isinstance(node.test, ast.Constant)
        self.generic_visit(node)
        node.test = self._reaching(node.test, required=not is_constant)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        name = _name(node.func)
        for function in self._functions:
            self.calls.setdefault(function, set()).add(name)
        self.generic_visit(node)
        is_method = isinstance(node.func, ast.Attribute)
        if (is_method and name.startswith("assert")) or name == "raises":
            return self._reaching(node, required=True)
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        items = [node.left, *node.comparators]
        for index, op in enumerate(node.ops):
            if isinstance(op, _ORDER):
                items[index : index + 2] = map(_as_ordered, items[index : index + 2])
        node.left, node.comparators = items[0], items[1:]
        return node

    def visit_If(self, node: Any) -> Any:
        node.test = self.visit(node.test)
        return self._visit_optional(node, "body", "orelse")

    def visit_Match(self, node: Any) -> Any:
        self._optional += 1
        self.generic_visit(node)
        self._optional -= 1
        return node

    visit_IfExp = visit_BoolOp = visit_Match

    def visit_Try(self, node: ast.Try) -> Any:
        if any(map(_ends_the_test, [*node.body, *node.orelse])):  # it is to be raised
            for handler in node.handlers:
                reach = ast.Expr(self._reaching(ast.Constant(True), required=False))
                handler.body.insert(0, ast.copy_location(reach, handler.body[0]))
        return self._visit_optional(node, "body", "handlers", "orelse", "finalbody")

    def visit_With(self, node: Any) -> Any:
        is_raising = any(
            isinstance(item.context_expr, ast.Call) and _name(item.context_expr.func) in _RAISING
            for item in node.items
        )
        if not is_raising:
            return self.generic_visit(node)
        node.items = [self.visit(item) for item in node.items]
        return self._visit_optional(node, "body")

    visit_AsyncWith = visit_With

    def _visit_optional(self, node: Any, *fields: str) -> Any:
        self._optional += 1
        for field in fields:
            setattr(node, field, [self.visit(part) for part in getattr(node, field)])
        self._optional -= 1
        return node

    def _reaching(self, node: ast.expr, required: bool) -> ast.expr:
        self._number += 1
        if required and not self._optional:
            self.marks.required[self._number] = node.lineno
        for function in self._functions:
            self.marks.of_function[function].add(self._number)
        call = ast.Call(ast.Name(REACHED, ast.Load()), [ast.Constant(self._number), node], [])
        return ast.copy_location(call, node) if hasattr(node, "lineno") else call


def _ends_the_test(statement: ast.stmt) -> bool:
    """`assert False`, `raise` or `fail()`: what must not be reached."""
    if isinstance(statement, ast.Assert):
        return isinstance(statement.test, ast.Constant) and not statement.test.value
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _name(statement.value.func) == "fail"
    return isinstance(statement, ast.Raise)


def _as_ordered(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Constant):
        return node
    return ast.copy_location(ast.Call(ast.Name(ORDERED, ast.Load()), [node], []), node)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
