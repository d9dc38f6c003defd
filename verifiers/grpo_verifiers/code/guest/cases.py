"""Finds the tests in a source of tests, and runs them one by one.

Found are statements of the module itself and of HumanEval's `check` that assert, each a test of its
own; functions `test_...`; classes `Test...`; and subclasses of `unittest.TestCase`. A test that
could assert and did not has failed.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import inspect
import sys
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import pytest_stand_in, reaching
    from grpo_verifiers.code.guest.peer import Gone
else:
    import grpo_code_pytest as pytest_stand_in
    import grpo_code_reaching as reaching
    from grpo_code_peer import Gone

SHOWN_CHARS = 200
_CASE = "__grpo_case__"
_QUIET_CASE = "__grpo_quiet_case__"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_RUNNERS = ("unittest.main", "pytest.main")
_UNREACHED = "no assert was reached"

Report = Callable[[str, Any], None]
Plan = Callable[[int], None]
Run = tuple[str, str, Callable[[], Any]]


class Stop(BaseException):
    """A test has failed and the others need not be run."""


class Broken(BaseException):
    """The tests themselves cannot be run."""


class Case:
    """One test, as a context: reports how it went, and lets the next one run.

    Args:
        report: takes its name and the exception that ended it, or None.
        marks: count the asserts that it reaches.
        name: of the test.
        asserts: whether it has failed if it reaches none.
        quiet: whether it is reported only if it failed or reached an assert.
    """

    def __init__(
        self, report: Report, marks: reaching.Marks, name: str, asserts: bool, quiet: bool = False
    ) -> None:
        self._report, self._marks, self._name = report, marks, name
        self._asserts, self._quiet = asserts, quiet
        self._fresh = 0

    def __enter__(self) -> Case:
        self._fresh, self._marks.fresh = self._marks.fresh, 0
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        reached, self._marks.fresh = self._marks.fresh, self._fresh
        if isinstance(error, Gone | Stop | Broken):
            return False
        if error is None and self._marks.thread_errors:
            error = self._marks.thread_errors[0]
        self._marks.thread_errors.clear()
        if error is None and self._asserts and not reached:
            error = AssertionError(_UNREACHED)
        if error is not None or reached or not self._quiet:
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
    _check_imports(tree)
    tree.body = _opened(tree.body)
    num_marked = _mark(tree.body)
    marks = reaching.mark(tree)
    failures: list[str] = []

    def note(name: str, error: BaseException | None) -> None:
        failures.extend([name] * (error is not None))
        report(name, error)

    space = module.__dict__
    space[_CASE] = lambda name: Case(note, marks, name, asserts=True)
    space[_QUIET_CASE] = lambda name: Case(note, marks, name, asserts=False, quiet=True)
    space[reaching.REACHED], space[reaching.ORDERED] = marks.reach, reaching.ordered
    threading.excepthook = partial(_thread_ended, marks)
    plan(num_marked)
    with Case(note, marks, "the tests", asserts=False, quiet=True):
        exec(compile(ast.fix_missing_locations(tree), "<tests>", "exec"), space)
    if not _was_run(tree, "check", marks) and isinstance(space.get("check"), types.FunctionType):
        with Case(note, marks, "check(candidate)", asserts=False, quiet=True):
            space["check"](space[entry_point])
    runs = [*_functions(tree, space, marks), *_methods(module)]
    plan(num_marked + len(runs))
    for name, function, run in runs:
        with Case(note, marks, name, asserts=function in marks.asserting):
            _awaited(name, run)
    line = marks.missing()
    if line and not failures:
        report("the tests", AssertionError(f"the assert in line {line} was never reached"))


def _check_imports(tree: ast.Module) -> None:
    """That a module is missing is the tests' fault, whatever the candidate does.

    Raises:
        Broken: naming the module.
    """
    for node in tree.body:
        names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.modules and importlib.util.find_spec(top) is None:
                raise Broken(f"No module named '{top}'")


def _thread_ended(marks: reaching.Marks, ended: Any) -> None:
    if ended.exc_value is not None:
        marks.thread_errors.append(ended.exc_value)


def _awaited(name: str, run: Callable[[], Any]) -> None:
    """Run a test to its end, also where it is a coroutine."""
    result = run()
    if inspect.iscoroutine(result):
        asyncio.run(result)
    elif inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise Broken(f"{name} has a `yield`, so that it would not be run")


def _functions(tree: ast.Module, space: dict[str, Any], marks: reaching.Marks) -> Iterator[Run]:
    names = [node.name for node in _statements(tree.body) if isinstance(node, _FUNCTIONS)]
    for name in dict.fromkeys(names):
        function = space.get(name)
        if name.startswith("test") and callable(function) and not _was_run(tree, name, marks):
            for label, args in _parameters(function):
                yield name + label, name, partial(function, **args)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, with those in its branches."""
    for node in body:
        yield node
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, []))


def _methods(module: types.ModuleType) -> Iterator[Run]:
    unittest = sys.modules.get("unittest")
    for name, kind in list(vars(module).items()):
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        methods = [key for key in dir(kind) if key.startswith("test")]
        if unittest is not None and issubclass(kind, unittest.TestCase):
            for method in methods:
                yield f"{name}.{method}", method, partial(_run_test_case, kind, method)
        elif name.startswith("Test"):
            for method in methods:
                for label, args in _parameters(getattr(kind(), method)):
                    run = partial(_run_method, kind, method, args)
                    yield f"{name}.{method}{label}", method, run


def _run_method(kind: Any, method: str, args: dict[str, Any]) -> Any:
    instance = kind()
    getattr(instance, "setup_method", lambda: None)()
    return getattr(instance, method)(**args)


def _run_test_case(kind: Any, method: str) -> None:
    kind.setUpClass()
    instance = kind(method)
    instance.setUp()
    try:
        _awaited(method, lambda: _with_async_setup(instance, getattr(instance, method)))
    finally:
        instance.tearDown()
        instance.doCleanups()
        kind.tearDownClass()


def _with_async_setup(instance: Any, method: Any) -> Any:
    """The result of a test method; what an asynchronous one needs is awaited around it."""
    if not inspect.iscoroutinefunction(method) or not hasattr(instance, "asyncSetUp"):
        return method()

    async def run() -> None:
        await instance.asyncSetUp()
        try:
            await method()
        finally:
            await instance.asyncTearDown()

    return run()


def _parameters(function: Any) -> Any:
    try:
        return pytest_stand_in.parameters(function)
    except (TypeError, ValueError) as error:
        raise Broken(str(error)) from None


def _opened(body: list[ast.stmt]) -> list[ast.stmt]:
    """A module's statements with those under `if __name__ == "__main__"`; runners are left out."""
    kept: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            kept += _opened(node.body)
        elif not (isinstance(node, ast.Expr) and _is_runner(node.value)):
            kept.append(node)
    return kept


def _is_runner(node: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Call) and ast.unparse(part.func) in _RUNNERS for part in ast.walk(node)
    )


def _mark(body: list[ast.stmt]) -> int:
    """Make each statement with an assert, of the module and of `check`, a test; count them.

    What calls something may reach asserts; it is a test if it does.
    """
    num = 0
    for index, node in enumerate(body):
        if isinstance(node, ast.FunctionDef) and node.name == "check":
            num += _mark(node.body)
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            asserts = any(isinstance(part, ast.Assert) for part in ast.walk(node))
            if asserts or isinstance(
                node, ast.Expr | ast.With | ast.For | ast.While | ast.If | ast.Try
            ):
                name = ast.Constant(ast.unparse(node)[:SHOWN_CHARS])
                kind = ast.Name(_CASE if asserts else _QUIET_CASE, ast.Load())
                item = ast.withitem(ast.Call(kind, [name], []))
                body[index] = ast.copy_location(ast.With([item], [node]), node)
                num += asserts
    return num


def _was_run(tree: ast.Module, name: str, marks: reaching.Marks) -> bool:
    """Whether the module itself has called one of its functions, and reached its asserts."""
    is_called = any(
        isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == name
        for node in tree.body
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef))
        for part in ast.walk(node)
    )
    numbers = marks.of_function.get(name, set())
    return is_called and (not numbers or bool(numbers & marks.reached))
