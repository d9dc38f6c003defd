"""References of the code verifier, read and checked before anything runs.

What a reference may hold is listed in `verifiers/README.md`.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_verifiers.code.assembly import bound_names, context_of, parsed
from grpo_verifiers.code.asserting import check_asserts
from grpo_verifiers.code.cases import ProgramCase, UnreadableReference, read_cases
from grpo_verifiers.code.checks import Check
from grpo_verifiers.code.library_names import Ambiguous, library_names
from grpo_verifiers.code.naming import called_names
from grpo_verifiers.code.rewriting import is_check_function, rewrite
from grpo_verifiers.code.shown import shorten

_KINDS: dict[type, str] = {
    str: "a text", int: "a number", float: "a number", bool: "a truth value", list: "a list",
    type(None): "null",
}  # fmt: skip
_KEYS = {
    "language", "prompt", "entry_point", "tests", "test", "test_list", "challenge_test_list",
    "test_setup_code", "test_imports", "cases", "inputs", "outputs", "fn_name", "input_output",
    "tolerance", "in_place",
}  # fmt: skip
# What rows of HumanEval, MBPP and APPS hold besides: names, and solutions that nobody reads here.
_IGNORED = {
    "task_id", "canonical_solution", "text", "code", "source_file",
    "problem_id", "question", "solutions", "difficulty", "url", "starter_code",
}  # fmt: skip
# The candidate could answer with text that does harm where tests execute it.
_EXECUTE = frozenset({"eval", "exec", "compile", "__import__"})


@dataclass(frozen=True, slots=True)
class Problem:
    """A reference that has been read. It has `cases`, or else `checks`, `tests` or both.

    Attributes:
        language: the candidate's.
        prompt: source that the candidate continues, such as HumanEval's signature and docstring.
        entry_point: the function that is tested, if one is named.
        checks: tests that are calls and comparisons.
        tests: source of tests, for a process of their own, where `checks` are not enough.
        cases: tests of a program by what it reads and writes.
        tolerance: for numbers in outputs and values; 0 compares exactly.
        in_place: whether tests look at arguments that the candidate has changed.
        tested: the entry point, or what tests call in its place.
    """

    language: str
    prompt: str = ""
    entry_point: str | None = None
    checks: tuple[Check, ...] = ()
    tests: str = ""
    cases: tuple[ProgramCase, ...] = ()
    tolerance: float = 0.0
    in_place: bool = False
    tested: str | None = None


def read_problem(reference: Any) -> Problem:
    """Read a reference.

    Raises:
        UnreadableReference: naming the field that is wrong, and the rule.
    """
    if not isinstance(reference, Mapping):
        kind = _KINDS.get(type(reference), type(reference).__name__)
        raise UnreadableReference(
            f'it is {kind}, not an object with fields; tests go into {{"tests": "assert ..."}}'
        )
    unknown = sorted(set(map(str, reference)) - _KEYS - _IGNORED)
    if unknown:
        raise UnreadableReference(
            f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}"
        )
    language = _text(reference, "language") or "python"
    prompt = _text(reference, "prompt")
    entry_point = _text(reference, "entry_point") or None
    tolerance = reference.get("tolerance", 0.0)
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance < math.inf:
        raise UnreadableReference(f"tolerance is a number >= 0, got {tolerance!r}")
    in_place = reference.get("in_place", False)
    if not isinstance(in_place, bool):
        raise UnreadableReference(f"in_place is true or false, got {in_place!r}")
    common = Problem(language, prompt, entry_point, tolerance=float(tolerance), in_place=in_place)
    if tests := _tests(reference):
        if language != "python":
            raise UnreadableReference(
                f"tests are Python asserts, the language is {language}; give cases instead"
            )
        return _with_tests(common, tests)
    return _with_cases(common, reference)


def _with_cases(common: Problem, reference: Mapping[str, Any]) -> Problem:
    checks, cases, function = read_cases(reference, common.entry_point, common.tolerance)
    name = common.entry_point or function
    return replace(common, entry_point=name, checks=checks, cases=cases, tested=name)


def _with_tests(common: Problem, tests: str) -> Problem:
    tree = parse(tests, "tests")
    _refuse_execution(tree)
    check_asserts(tree)
    has_check = any(is_check_function(node) for node in tree.body)
    if has_check and not common.entry_point and not _calls_check(tree):
        raise UnreadableReference("tests with `def check(candidate)` need entry_point")
    in_place = common.in_place or _looks_at_arguments(tree)
    others = _others(tree, common)
    checks = None if in_place else rewrite(tree, common.entry_point, others)
    if checks == ():
        raise UnreadableReference("the tests never call the candidate")
    tested = common.entry_point or _only(called_names(tree) - others)
    return replace(common, checks=checks or (), tests=tests, in_place=in_place, tested=tested)


def _others(tests: ast.Module, common: Problem) -> set[str]:
    """Names in tests that are the prompt's or a library's."""
    context = parsed(context_of(common.prompt, common.entry_point))
    try:
        library = library_names(tests, common.entry_point)
    except Ambiguous as error:
        raise UnreadableReference(str(error)) from error
    return {*library, *(bound_names(context) if context else ())}


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def parse(source: str, what: str) -> ast.Module:
    """Python source as a tree.

    Raises:
        UnreadableReference: if it is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableReference(f"the {what} cannot be parsed: {error}") from error


def _tests(reference: Mapping[str, Any]) -> str:
    """The tests as one source text: HumanEval's `test`, MBPP's `test_list`, or `tests`."""
    parts = [_joined(reference, "test_imports"), _text(reference, "test_setup_code")]
    tests = [_text(reference, "test"), _joined(reference, "tests")]
    tests += [_joined(reference, "test_list"), _joined(reference, "challenge_test_list")]
    tests = [test for test in tests if test.strip()]
    if not tests:
        return ""
    if any(key in reference for key in ("cases", "inputs", "outputs", "input_output")):
        raise UnreadableReference("it has tests and cases; give one of them")
    return "\n".join([part for part in parts if part.strip()] + tests)


def _joined(reference: Mapping[str, Any], key: str) -> str:
    """A text, or lines given as a list."""
    value = reference.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return "\n".join(value)
    raise UnreadableReference(f"{key} is a text or a list of texts, got {shorten(repr(value))}")


def _text(reference: Mapping[str, Any], key: str) -> str:
    value = reference.get(key)
    if value is not None and not isinstance(value, str):
        raise UnreadableReference(f"{key} is a text, got {shorten(repr(value))}")
    return value or ""


def _refuse_execution(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _EXECUTE:
            raise UnreadableReference(
                f"the tests use {node.id}() (line {node.lineno}), which would run what the "
                "candidate returns; compare values, or use ast.literal_eval"
            )


def _calls_check(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "check"
        for node in ast.walk(tree)
    )


def _looks_at_arguments(tree: ast.Module) -> bool:
    """Whether a call of a variable stands alone, as in `sort(x); assert x == [1, 2]`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            call = node.value
            is_plain = isinstance(call.func, ast.Name) and call.func.id not in ("print", "check")
            if is_plain and any(isinstance(item, ast.Name) for item in call.args):
                return True
    return False
