"""Finds the tests in a source of tests, and runs them one by one.

Found are asserts of the module itself and of HumanEval's `check`, each a test of its own; functions
`test_...`; classes `Test...`; and subclasses of `unittest.TestCase`.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import pytest_stand_in
    from grpo_verifiers.code.guest.peer import Gone
else:
    import grpo_code_pytest as pytest_stand_in
    from grpo_code_peer import Gone

SHOWN_CHARS = 200
_CASE = "__grpo_case__"

Report = Callable[[str, Any], None]
Plan = Callable[[int], None]
Run = tuple[str, Callable[[], Any]]


class Stop(BaseException):
    """A test has failed and the others need not be run."""


class Broken(BaseException):
    """The tests themselves cannot be run."""


class Case:
    """One test, as a context: reports how it went, and lets the next one run.

    Args:
        report: takes its name and the exception that ended it, or None.
        name: of the test.
        quiet: whether success is not reported, for what merely holds tests.
    """

    def __init__(self, report: Report, name: str, quiet: bool = False) -> None:
        self._report, self._name, self._quiet = report, name, quiet

    def __enter__(self) -> Case:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Gone | Stop | Broken):
            return False
        if error is not None or not self._quiet:
            self._report(self._name, error)
        return True


def run_tests(
    tests: str, module: types.ModuleType, entry_point: str, report: Report, plan: Plan
) -> None:
    """Execute tests in a module, which has what they need of the candidate.

    Args:
        tests: their source.
        module: where they are executed.
        entry_point: what `check` is called with.
        report: takes how each test went.
        plan: takes how many tests are known of.

    Raises:
        Stop: from `report`.
        Broken: if the tests want what is not here.
    """
    tree = ast.parse(tests)
    space = module.__dict__
    space[_CASE] = lambda name: Case(report, name)
    num_marked = _mark(tree.body)
    plan(num_marked)
    with Case(report, "the tests", quiet=True):
        exec(compile(ast.fix_missing_locations(tree), "<tests>", "exec"), space)
    if not _calls(tree, "check") and isinstance(space.get("check"), types.FunctionType):
        with Case(report, "check(candidate)", quiet=True):
            space["check"](space[entry_point])
    runs = [*_functions(tree, space), *_methods(module)]
    plan(num_marked + len(runs))
    for name, run in runs:
        with Case(report, name):
            run()


def _functions(tree: ast.Module, space: dict[str, Any]) -> Iterator[Run]:
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
            continue
        function = space.get(node.name)
        if callable(function) and not _calls(tree, node.name):
            for label, args in _parameters(function):
                yield node.name + label, partial(function, **args)


def _methods(module: types.ModuleType) -> Iterator[Run]:
    unittest = sys.modules.get("unittest")
    for name, kind in list(vars(module).items()):
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        if unittest is not None and issubclass(kind, unittest.TestCase):
            for method in [key for key in dir(kind) if key.startswith("test")]:
                yield f"{name}.{method}", partial(_run_test_case, kind, method)
        elif name.startswith("Test"):
            for method in [key for key in vars(kind) if key.startswith("test")]:
                for label, args in _parameters(getattr(kind(), method)):
                    yield f"{name}.{method}{label}", partial(_run_method, kind, method, args)


def _run_method(kind: Any, method: str, args: dict[str, Any]) -> None:
    instance = kind()
    getattr(instance, "setup_method", lambda: None)()
    getattr(instance, method)(**args)


def _run_test_case(kind: Any, method: str) -> None:
    kind.setUpClass()
    instance = kind(method)
    instance.setUp()
    try:
        getattr(instance, method)()
    finally:
        instance.tearDown()
        instance.doCleanups()
        kind.tearDownClass()


def _parameters(function: Any) -> Any:
    try:
        return pytest_stand_in.parameters(function)
    except (TypeError, ValueError) as error:
        raise Broken(str(error)) from None


def _mark(body: list[ast.stmt]) -> int:
    """Make each statement with an assert, of the module and of `check`, a test; count them."""
    num = 0
    for index, node in enumerate(body):
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            num += _mark(node.body)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and any(
            isinstance(part, ast.Assert) for part in ast.walk(node)
        ):
            name = ast.Constant(ast.unparse(node)[:SHOWN_CHARS])
            case = ast.Call(ast.Name(_CASE, ast.Load()), [name], [])
            body[index] = ast.copy_location(ast.With([ast.withitem(case)], [node]), node)
            num += 1
    return num


def _calls(tree: ast.Module, name: str) -> bool:
    """Whether the module itself calls one of its functions."""
    return any(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == name
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
        for part in ast.walk(node)
    )
