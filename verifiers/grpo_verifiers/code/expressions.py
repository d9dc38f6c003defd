"""Evaluates the plain part of a test's expression on the host, without running any code.

`assert abs(f(2) - 1.5) < 1e-6` is a call of the candidate and arithmetic on what it returns. The
arithmetic is done here, on values of exact builtin types, so that the candidate's process never
sees what it is compared with. Only what is listed here exists; tests that use more are run in a
process of their own (see `relay`).
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.code.guest.codec import hashable
from grpo_verifiers.code.guest.reaching import ordered

MAX_BITS = 1 << 16  # of an integer that arithmetic makes
MAX_ITEMS = 1_000_000  # of a sequence that arithmetic makes
MAX_EXACT_ITEMS = 100  # fractions in a sum
MAX_EXACT_BITS = 2_000  # of a fraction in arithmetic

TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "all": all, "any": any, "bool": bool, "float": float, "int": int, "len": len,
    "isinstance": isinstance, "list": list, "max": max, "min": min, "round": round,
    "sorted": sorted, "tuple": tuple,
    "set": lambda *items: set(*map(hashable, items)),
    "frozenset": lambda *items: frozenset(*map(hashable, items)),
    "sum": lambda items: _sum(items),
    "type": type,
}  # fmt: skip
MATH_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "math.isclose": math.isclose, "math.fabs": math.fabs, "math.isnan": math.isnan,
    "math.isinf": math.isinf, "math.sqrt": math.sqrt, "math.floor": math.floor,
    "math.ceil": math.ceil,
}  # fmt: skip
CONSTANTS: dict[str, Any] = {
    "math.pi": math.pi, "math.e": math.e, "math.inf": math.inf, "math.nan": math.nan,
    "math.tau": math.tau, "None": None, "NoneType": type(None), **TYPES,
}  # fmt: skip

_PLAIN_NUMBERS = frozenset({bool, int, float, complex})
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Not: operator.not_,
    ast.Invert: operator.invert,
}  # fmt: skip
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda item, items: item in items, ast.NotIn: lambda item, items: item not in items,
}  # fmt: skip
_ORDER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


class Unsupported(VerifierError):
    """An expression is more than what is evaluated here."""


class TooLarge(ArithmeticError):
    """A result would be larger than any test needs."""


def check_supported(node: ast.expr, names: Collection[str]) -> None:
    """Read an expression as `evaluate` will, with values for `names`.

    Raises:
        Unsupported: for syntax or names that are not known here.
    """
    waiting: list[ast.AST] = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, ast.Name | ast.Attribute):
            name = dotted_name(part)
            if name not in names and name not in CONSTANTS:
                raise Unsupported(f"name {name or 'with several dots'}")
            continue
        if isinstance(part, ast.Call):
            _check_call(part)
            waiting += [*part.args, *(keyword.value for keyword in part.keywords)]
            continue
        if isinstance(part, ast.BinOp) and type(part.op) not in _BINARY:
            raise Unsupported(type(part.op).__name__)
        if isinstance(part, ast.Dict) and None in part.keys:
            raise Unsupported("**")
        if isinstance(part, ast.expr) and type(part) not in _HANDLERS:
            raise Unsupported(type(part).__name__)
        waiting += ast.iter_child_nodes(part)


def _check_call(node: ast.Call) -> None:
    name = dotted_name(node.func)
    if name not in FUNCTIONS and name not in MATH_FUNCTIONS:
        raise Unsupported(f"call of {name or 'an expression'}")
    if any(keyword.arg is None for keyword in node.keywords):
        raise Unsupported("**")
    # round(1, -10**9) would compute a power of ten of that size.
    fixed = name != "round" or all(isinstance(item, ast.Constant) for item in node.args[1:])
    if name in ("sum", "type"):  # a sum with a start joins lists, in quadratic time
        fixed = len(node.args) == 1
    if not fixed or (name in ("round", "sum", "type") and node.keywords):
        raise Unsupported(f"such arguments of {name}()")


def evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of an expression over `values`, as Python would compute it.

    Raises:
        Unsupported: for syntax or names that are not known here.
        Exception: whatever Python's own operators raise on such values.
    """
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise Unsupported(type(node).__name__)
    return handler(node, values)


def dotted_name(node: ast.expr) -> str:
    """`math.isclose` of such an expression; empty if it is another."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return ""


def _name(node: Any, values: Mapping[str, Any]) -> Any:
    name = dotted_name(node)
    if name in values:
        return values[name]
    if name in CONSTANTS:
        return CONSTANTS[name]
    raise Unsupported(f"name {name or 'with several dots'}")


def _items(nodes: list[ast.expr], values: Mapping[str, Any]) -> list[Any]:
    items: list[Any] = []
    for node in nodes:
        if isinstance(node, ast.Starred):
            raise Unsupported("*")
        items.append(evaluate(node, values))
    return items


def _dict(node: ast.Dict, values: Mapping[str, Any]) -> Any:
    result = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if key is None:
            raise Unsupported("**")
        result[evaluate(key, values)] = evaluate(value, values)
    return result


def _unary(node: ast.UnaryOp, values: Mapping[str, Any]) -> Any:
    return _UNARY[type(node.op)](evaluate(node.operand, values))


def _binary(node: ast.BinOp, values: Mapping[str, Any]) -> Any:
    operate = _BINARY.get(type(node.op))
    if operate is None:
        raise Unsupported(type(node.op).__name__)
    left, right = evaluate(node.left, values), evaluate(node.right, values)
    _check_size(node.op, left, right)
    return operate(left, right)


def _check_size(op: ast.operator, left: Any, right: Any) -> None:
    """Raises TooLarge for what would eat time or memory."""
    for value in (left, right):
        if isinstance(value, Fraction | Decimal):
            _check_exact(value)
    if isinstance(op, ast.Mod) and isinstance(left, str | bytes):
        raise TooLarge("text is not formatted here")
    if isinstance(op, ast.Pow) and not {type(left), type(right)} <= _PLAIN_NUMBERS:
        raise TooLarge("only plain numbers have powers here")
    if isinstance(op, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        size, limit = max(left.bit_length(), 1) * abs(right), MAX_BITS
    elif isinstance(op, ast.Mult) and isinstance(left, int) and isinstance(right, int):
        size, limit = left.bit_length() + right.bit_length(), MAX_BITS
    elif isinstance(op, ast.Mult) and hasattr(left, "__len__") and isinstance(right, int):
        size, limit = len(left) * right, MAX_ITEMS
    elif isinstance(op, ast.Mult) and isinstance(left, int) and hasattr(right, "__len__"):
        size, limit = left * len(right), MAX_ITEMS
    else:
        return
    if size > limit:
        raise TooLarge(f"a value of size {size}; tests may compute values up to {limit}")


def _sum(items: Any) -> Any:
    items = list(items)
    exact = [item for item in items if isinstance(item, Fraction | Decimal)]
    if len(exact) > MAX_EXACT_ITEMS:  # the digits of a sum of fractions are those of all of them
        raise TooLarge(f"a sum of {len(exact)} fractions or decimals")
    for item in exact:
        _check_exact(item)
    return sum(items)


def _check_exact(value: Any) -> None:
    if isinstance(value, Fraction):
        bits = value.numerator.bit_length() + value.denominator.bit_length()
    else:
        bits = 4 * len(value.as_tuple().digits)
    if bits > MAX_EXACT_BITS:
        raise TooLarge(f"arithmetic on a fraction or decimal of {bits} bits")


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = evaluate(node.left, values)
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = evaluate(right_node, values)
        if type(op) in _ORDER:
            ordered(left), ordered(right)
        if not _COMPARISONS[type(op)](left, right):
            return False
        left = right
    return True


def _bool_op(node: ast.BoolOp, values: Mapping[str, Any]) -> Any:
    value = None
    for operand in node.values:
        value = evaluate(operand, values)
        if bool(value) is isinstance(node.op, ast.Or):
            break
    return value


def _call(node: ast.Call, values: Mapping[str, Any]) -> Any:
    _check_call(node)
    name = dotted_name(node.func)
    function = FUNCTIONS.get(name) or MATH_FUNCTIONS[name]
    arguments = _items(node.args, values)
    keywords = {str(item.arg): evaluate(item.value, values) for item in node.keywords}
    return function(*arguments, **keywords)


def _subscript(node: ast.Subscript, values: Mapping[str, Any]) -> Any:
    return evaluate(node.value, values)[evaluate(node.slice, values)]


def _slice(node: ast.Slice, values: Mapping[str, Any]) -> slice:
    parts = (node.lower, node.upper, node.step)
    return slice(*(part and evaluate(part, values) for part in parts))


_HANDLERS: dict[type[ast.expr], Callable[[Any, Mapping[str, Any]], Any]] = {
    ast.Constant: lambda node, values: node.value,
    ast.Name: _name,
    ast.Attribute: _name,
    ast.List: lambda node, values: _items(node.elts, values),
    ast.Tuple: lambda node, values: tuple(_items(node.elts, values)),
    ast.Set: lambda node, values: set(_items(node.elts, values)),
    ast.Dict: _dict,
    ast.UnaryOp: _unary,
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.BoolOp: _bool_op,
    ast.Call: _call,
    ast.Subscript: _subscript,
    ast.Slice: _slice,
}
