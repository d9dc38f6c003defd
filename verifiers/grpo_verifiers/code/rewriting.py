"""Tests written as asserts, turned into checks where that is possible.

`assert f(1, 2) == 3` becomes a call of `f` and a comparison on the host. All of the tests are
rewritten, or none: statements between asserts may depend on each other.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator, Mapping
from typing import TypeGuard

from grpo_verifiers.code.checks import Call, Check, Holds, call_name
from grpo_verifiers.code.expressions import (
    FUNCTIONS,
    TooLarge,
    Unsupported,
    check_supported,
    evaluate,
)
from grpo_verifiers.code.guest import codec
from grpo_verifiers.code.naming import CANDIDATE_MODULES
from grpo_verifiers.code.shown import shorten, shown

_BUILTIN_NAMES = frozenset(dir(builtins))
_HARMLESS = (ast.Import, ast.ImportFrom, ast.Pass)


def rewrite(
    tests: ast.Module, entry_point: str | None, others: Collection[str] = ()
) -> tuple[Check, ...] | None:
    """The checks of tests, or None where they are more than asserts over plain calls.

    Args:
        tests: asserts, or HumanEval's `def check(candidate)` of asserts.
        entry_point: what `candidate` stands for.
        others: names that are the prompt's or a library's.
    """
    try:
        return tuple(_Rewriter(tests, entry_point, others).checks(tests.body))
    except (Unsupported, TooLarge, codec.CodecError):
        return None


class _Rewriter:
    def __init__(self, tests: ast.Module, entry_point: str | None, others: Collection[str]) -> None:
        self._aliases = {"candidate": entry_point} if entry_point else {}
        self._entry_point = entry_point
        self._loaded = {
            node.id
            for node in ast.walk(tests)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        self._taken = {*_imported(tests), *others}

    def checks(self, body: list[ast.stmt]) -> Iterator[Check]:
        for statement in body:
            if isinstance(statement, ast.Assert):
                check = self._check(statement)
                if check is not None:
                    yield check
            elif is_check_function(statement):
                parameter = statement.args.args[0].arg
                if self._entry_point is None:
                    raise Unsupported("check() without an entry point")
                self._aliases[parameter] = self._entry_point
                yield from self.checks(statement.body)
            elif not self._is_idle(statement):
                raise Unsupported(type(statement).__name__)

    def _is_idle(self, statement: ast.stmt) -> bool:
        """Whether leaving a statement out changes nothing."""
        if isinstance(statement, ast.Expr):
            value = statement.value
            is_check = isinstance(value, ast.Call) and _is_name(value.func, {"check"})
            return isinstance(value, ast.Constant) or _is_name(value, _BUILTIN_NAMES) or is_check
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            unused = len(names) == len(statement.targets) and not self._loaded & {*names}
            return unused and _is_literal(statement.value)
        return isinstance(statement, _HARMLESS)

    def _check(self, statement: ast.Assert) -> Check | None:
        """The check of an assert; None for one that no candidate can fail."""
        calls: list[Call] = []
        node = _Calls(self._function, calls).visit(_copy(statement.test))
        check_supported(node, [call_name(index) for index in range(len(calls))])
        if not calls:
            if evaluate(node, {}):
                return None
            raise Unsupported("an assert that cannot hold")
        return Check(_source(statement), tuple(calls), Holds(node), _expected(node))

    def _function(self, name: str) -> str | None:
        """The candidate's function that a name in the tests means, if it means one."""
        if name in self._aliases:
            return self._aliases[name]
        if name in FUNCTIONS or name in self._taken or name in _BUILTIN_NAMES:
            return name if name == self._entry_point else None
        return name


class _Calls(ast.NodeTransformer):
    """Replaces the calls of the candidate by names, and collects them."""

    def __init__(self, function: object, calls: list[Call]) -> None:
        self._function = function
        self._calls = calls

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = self._function(node.func.id) if isinstance(node.func, ast.Name) else None  # type: ignore[operator]
        if name is None:
            return self.generic_visit(node)
        self._calls.append(read_call(name, node))
        return ast.copy_location(ast.Name(call_name(len(self._calls) - 1), ast.Load()), node)


def read_call(function: str, node: ast.Call, names: Mapping[str, object] | None = None) -> Call:
    """A call whose arguments are constants, as data.

    Raises:
        Unsupported: if they are more than that.
        TooLarge, CodecError: if they are too large.
    """
    known = names or {}
    arguments = []
    keywords = {}
    for item in node.args:
        check_supported(item, known)
        arguments.append(evaluate(item, known))
    for keyword in node.keywords:
        if keyword.arg is None:
            raise Unsupported("**")
        check_supported(keyword.value, known)
        keywords[keyword.arg] = evaluate(keyword.value, known)
    codec.dump(codec.pack([arguments, keywords]))
    return Call(function, tuple(arguments), keywords)


def is_check_function(statement: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Whether a statement is HumanEval's `def check(candidate):`."""
    return (
        isinstance(statement, ast.FunctionDef)
        and statement.name == "check"
        and len(statement.args.args) == 1
        and not statement.decorator_list
    )


def _imported(tests: ast.Module) -> Iterator[str]:
    """Names that imports bind to something that is not the candidate's."""
    for node in ast.walk(tests):
        if isinstance(node, ast.Import):
            yield from (item.asname or item.name.partition(".")[0] for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module not in CANDIDATE_MODULES:
            if any(item.name == "*" for item in node.names):
                raise Unsupported("an import of names that are not listed")
            yield from (item.asname or item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and any(
            item.asname or item.name == "*" for item in node.names
        ):
            raise Unsupported("an import under another name")


def _copy(node: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(node), mode="eval").body


def _source(statement: ast.Assert) -> str:
    return shorten(ast.unparse(ast.Assert(statement.test)))


def _expected(node: ast.expr) -> str:
    """The constant that a call's value must equal, for people."""
    if not (isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq)):
        return ""
    try:
        return shown(evaluate(node.comparators[-1], {}))
    except (Unsupported, ArithmeticError, ValueError, TypeError, LookupError):
        return ""


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_name(node: ast.expr, names: set[str] | frozenset[str]) -> bool:
    return isinstance(node, ast.Name) and node.id in names
