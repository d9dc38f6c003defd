"""What the names in tests mean: which are the candidate's, and which of those are classes.

Objects that the tests make from a class of the candidate's may judge equality; what its functions
return may not. The candidate is not asked which is which, and a capital letter proves nothing, so a
class is what tests use as one.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

CANDIDATE_MODULES = frozenset({"solution", "main", "candidate"})  # `from solution import add`
_VALUE_TYPES = (int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
_VALUE_METHODS = frozenset(name for kind in _VALUE_TYPES for name in dir(kind))


def free_names(tests: ast.Module) -> set[str]:
    """Names that tests use and do not define: the candidate's, if it has them."""
    bound = set(dir(builtins)) | {"candidate"}
    for node in tests.body:
        for part in ast.walk(node):
            if isinstance(part, ast.Import | ast.ImportFrom):
                bound |= {item.asname or item.name.partition(".")[0] for item in part.names}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        else:
            parts = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            bound |= {part.id for part in parts if isinstance(part.ctx, ast.Store)}
    used = {part.id for part in ast.walk(tests) if isinstance(part, ast.Name)}
    return used - bound


def called_names(tests: ast.Module) -> set[str]:
    """Those of the free names that tests call."""
    return {
        node.func.id
        for node in ast.walk(tests)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    } & free_names(tests)


def class_names(tests: ast.Module, context: ast.Module) -> set[str]:
    """Names that are classes, by the prompt or by how tests use them.

    A class is what `isinstance` is asked about; what is called for an object of which a method or
    attribute is used that no builtin value has; and, with a capital letter, what stands on both
    sides of a comparison, as in `Vector(1, 2) + Vector(3, 4) == Vector(4, 6)`.
    """
    names = {node.name for node in context.body if isinstance(node, ast.ClassDef)}
    made_from: dict[str, set[str]] = {}
    for node in ast.walk(tests):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                key = ast.unparse(target)
                made_from.setdefault(key, set()).update(_called(node.value))
    for node in ast.walk(tests):
        if isinstance(node, ast.Attribute) and node.attr not in _VALUE_METHODS:
            names |= _called(node.value) or made_from.get(ast.unparse(node.value), set())
        elif isinstance(node, ast.Call) and _called(node) == {"isinstance"}:
            names |= {part.id for part in ast.walk(node.args[-1]) if isinstance(part, ast.Name)}
        elif isinstance(node, ast.Compare):
            names |= set(_on_both_sides(node, made_from))
    return names


def _called(node: ast.expr) -> set[str]:
    """The name that is called by `Name(...)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return {node.func.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return {node.func.attr}  # `solution.Name(...)`
    return set()


def _on_both_sides(node: ast.Compare, made_from: dict[str, set[str]]) -> Iterator[str]:
    sides: list[set[str]] = [set(), set()]
    for names, side in zip(sides, (node.left, node.comparators[-1]), strict=True):
        for part in ast.walk(side):
            if isinstance(part, ast.Call):
                names |= _called(part)
            elif isinstance(part, ast.Name | ast.Attribute):
                names |= made_from.get(ast.unparse(part), set())
    yield from (name for name in sides[0] & sides[1] if name[:1].isupper())
