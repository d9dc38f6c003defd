"""Whether the asserts of tests can fail at all, as far as their source shows.

A test that cannot fail calls every program right. What the source does not show is found when the
tests are run: see `guest.reaching`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from grpo_verifiers.code.cases import UnreadableReference
from grpo_verifiers.code.naming import free_names

_RUN_BY_NAME = ("test", "check", "setup", "teardown", "asyncsetup", "asyncteardown")
_ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def check_asserts(tests: ast.Module) -> None:
    """Refuse tests that assert nothing, or have asserts that are always true or never run.

    Raises:
        UnreadableReference: naming the line.
    """
    free = free_names(tests)
    for node in ast.walk(tests):
        if isinstance(node, ast.Assert) and _is_always_true(node.test, free):
            raise UnreadableReference(
                f"the assert in line {node.lineno} of the tests is true for every program: "
                f"{ast.unparse(node.test)[:100]}"
            )
    if not any(_can_fail(node) for node in _live(tests)):
        raise UnreadableReference("the tests assert nothing that could fail")
    _refuse_forgotten(tests)


def is_assertion(node: ast.AST) -> bool:
    """An assert, or what testing frameworks have for it."""
    if isinstance(node, ast.Assert):
        return True
    name = getattr(node, "attr", "") if isinstance(node, ast.Attribute) else ""
    return name.startswith("assert") or name in ("raises", "fail")


def _is_always_true(test: ast.expr, free: set[str]) -> bool:
    """A tuple (as in `assert (x, "message")`), a lambda, or the candidate's function itself."""
    if isinstance(test, ast.Tuple):
        return bool(test.elts)
    return isinstance(test, ast.Lambda) or (isinstance(test, ast.Name) and test.id in free)


def _can_fail(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assert):
        return is_assertion(node)
    test = node.test
    is_existence = (
        isinstance(test, ast.Call)
        and isinstance(test.func, ast.Name)
        and test.func.id in ("callable", "hasattr")
        and isinstance(test.args[0] if test.args else None, ast.Name)
    )
    # `assert False` says that it must not be reached.
    return not is_existence and not (isinstance(test, ast.Constant) and test.value)


def _live(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that are not behind a `return`, under `if False` or in a loop over nothing."""
    yield node
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
        parts = node.body if node.test.value else node.orelse
        yield from _live_statements(parts)
        return
    is_empty = isinstance(node, ast.For) and _is_empty(node.iter)
    for name, field in ast.iter_fields(node):
        if isinstance(field, list) and not (is_empty and name == "body"):
            yield from _live_statements(field)
        elif isinstance(field, ast.AST):
            yield from _live(field)


def _live_statements(nodes: list[ast.AST] | list[ast.stmt]) -> Iterator[ast.AST]:
    for node in nodes:
        if isinstance(node, ast.AST):
            yield from _live(node)
        if isinstance(node, _ENDS):
            return


def _is_empty(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Tuple | ast.Set) and not node.elts


def _refuse_forgotten(tests: ast.Module) -> None:
    """A function that asserts must be called, or be one that is run by its name."""
    used = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tests) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tests):
        if not isinstance(node, _FUNCTIONS) or node.decorator_list or node.name in used:
            continue
        is_run = node.name.lower().replace("_", "").startswith(_RUN_BY_NAME)
        if not is_run and not node.name.startswith("__") and any(map(is_assertion, ast.walk(node))):
            raise UnreadableReference(
                f"the function {node.name} in line {node.lineno} of the tests asserts, but nothing "
                "calls it"
            )
