"""Values that cross a process border as JSON: exact builtin types, a few of the standard library's.

None, bool, int, float, str and list are JSON themselves. The rest is an object with one key that
says what it is: `{"tuple": [...]}`, `{"dict": [key, value, key, value]}`, `{"bytes": "00ff"}`, and
`{"known": ["date", 2024, 1, 31]}` for those of `library_values`.
What is read was written by a stranger, so that reading it cannot run code, and size, depth, length
of integers and colliding hashes are bounded.

Objects that cannot be copied may cross as handles, `{"handle": 7, "of": "candidate", ...}`, where
both ends have agreed to that.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

# In the sandbox these modules have names of their own; see GUESTS in `verifier`.
if TYPE_CHECKING or __name__ != "grpo_code_codec":
    from grpo_verifiers.code.guest import library_values
    from grpo_verifiers.code.guest.library_values import CodecError as CodecError
else:
    import grpo_code_library_values as library_values
    from grpo_code_library_values import CodecError

MAX_BYTES = 4_000_000  # of one value, as JSON
MAX_DEPTH = 50
MAX_NODES = 500_000  # values within a value; an empty list takes 20 times its JSON in memory
MAX_INT_BITS = 14_285  # 4,300 digits, Python's own limit for reading and writing them
# Equal hashes make sets and dicts quadratic. Honest values have a handful: -1 and -2 share one.
MAX_EQUAL_HASHES = 50
_LONG_INTEGER = re.compile(rb"\d{4301}")

Export = Callable[[Any], Any]  # an object that cannot be copied -> its handle, or raises CodecError
Resolve = Callable[[dict], Any]  # ... and back


class ForeignValue(CodecError):
    """An object is no plain value, and nobody has agreed to handles."""


def dump(message: Any) -> bytes:
    """A message of packed values as a frame.

    Raises:
        CodecError: if it is too large.
    """
    try:
        frame = json.dumps(message, separators=(",", ":")).encode("ascii")
    except (RecursionError, ValueError) as error:
        raise CodecError(str(error)) from None
    if len(frame) > MAX_BYTES:
        raise CodecError(f"it takes {len(frame)} bytes; at most {MAX_BYTES} can be returned")
    return frame


def load(frame: bytes) -> Any:
    """The message of a frame, its values still packed.

    Raises:
        CodecError: if it is none, or too large.
    """
    if len(frame) > MAX_BYTES:
        raise CodecError(f"a frame of {len(frame)} bytes")
    if frame.count(b",") + frame.count(b"[") + frame.count(b"{") > 2 * MAX_NODES:
        raise CodecError(f"more than {MAX_NODES} values")
    if sys.get_int_max_str_digits() != 4300 and _LONG_INTEGER.search(frame):
        raise CodecError("an integer of more than 4300 digits")  # else found by json itself
    try:
        return json.loads(frame.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"no JSON: {error}"[:200]) from None


def pack(value: Any, export: Export | None = None) -> Any:
    """A value as JSON.

    A subclass of a builtin type is taken for the builtin it extends, unless it has an equality of
    its own: a `Counter` equals the dict of its items, and so does what arrives.

    Raises:
        CodecError: for a value of another type, or beyond the limits.
    """
    return _Packer(export).pack(value, 0)


def unpack(tree: Any, resolve: Resolve | None = None) -> Any:
    """The value of a packed one; lists within `tree` may be used for it.

    Raises:
        CodecError: if `tree` is not what `pack` gives.
    """
    return _Unpacker(resolve).unpack(tree, 0)


class _Packer:
    def __init__(self, export: Export | None) -> None:
        self._export = export
        self._num_nodes = 0

    def pack(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind not in _EXACT:
            value = _as_builtin(value)
            kind = type(value)
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise CodecError(f"it holds more than {MAX_NODES} values")
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            if value.bit_length() > MAX_INT_BITS:
                raise CodecError("it holds an integer of more than 4300 digits")
            return value
        if kind is bytes:
            return {"bytes": value.hex()}
        if kind is complex:
            return {"complex": [value.real, value.imag]}
        if depth >= MAX_DEPTH:
            raise CodecError(f"it is nested deeper than {MAX_DEPTH} levels")
        if kind not in _EXACT:
            known = library_values.parts_of(value)
            if known is None:
                return self._foreign(value)
            return {"known": [known[0], *(self.pack(part, depth + 1) for part in known[1])]}
        depth += 1
        if kind is list:
            return [self.pack(item, depth) for item in value]
        if kind is dict:
            pairs = [self.pack(part, depth) for item in value.items() for part in item]
            return {"dict": pairs}
        return {kind.__name__: [self.pack(item, depth) for item in value]}

    def _foreign(self, value: Any) -> Any:
        if self._export is None:
            raise ForeignValue(f"it is or holds a {type(value).__name__}, not a builtin value")
        return self._export(value)


class _Unpacker:
    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve

    def unpack(self, tree: Any, depth: int) -> Any:
        kind = type(tree)
        if kind is list:
            return self._items(tree, depth)
        if kind is dict:
            return self._tagged(tree, depth)
        return tree

    def _items(self, items: Any, depth: int) -> list[Any]:
        if type(items) is not list:
            raise CodecError("items that are no list")
        if depth >= MAX_DEPTH:
            raise CodecError(f"nested deeper than {MAX_DEPTH} levels")
        depth += 1
        for index, item in enumerate(items):
            if type(item) in _NEEDS_WORK:
                items[index] = self.unpack(item, depth)
        return items

    def _tagged(self, tree: dict[str, Any], depth: int) -> Any:
        if "handle" in tree:
            if self._resolve is None:
                raise CodecError("a handle where none may be")
            return self._resolve(tree)
        if len(tree) != 1:
            raise CodecError("an object of several keys")
        [(tag, content)] = tree.items()
        if tag == "bytes":
            return _read_bytes(content)
        if tag == "complex":
            return _read_complex(content)
        if tag == "tuple":
            return tuple(self._items(content, depth))
        if tag == "set" or tag == "frozenset":
            items = hashable(self._items(content, depth))
            return set(items) if tag == "set" else frozenset(items)
        if tag == "dict":
            items = self._items(content, depth)
            if len(items) % 2:
                raise CodecError("a key without a value")
            return dict(zip(hashable(items[::2]), items[1::2], strict=True))
        if tag == "known":
            return library_values.rebuild(self._items(content, depth))
        raise CodecError(f"an unknown kind of value {tag[:20]!r}")


def _read_bytes(content: Any) -> bytes:
    if type(content) is not str:
        raise CodecError("bytes that are no text")
    try:
        return bytes.fromhex(content)
    except ValueError as error:
        raise CodecError(str(error)) from None


def _read_complex(content: Any) -> complex:
    if type(content) is not list or [type(part) for part in content] != [float, float]:
        raise CodecError("a complex number that is not two floats")
    return complex(*content)


def hashable(items: Any) -> Any:
    """The same items, if they can be put into a set in reasonable time."""
    if len(items) > MAX_NODES:
        raise CodecError(f"more than {MAX_NODES} members")
    try:
        hashes = [hash(item) for item in items]
    except TypeError as error:
        raise CodecError(str(error)) from None
    if len(hashes) > MAX_EQUAL_HASHES:
        counts = Counter(hashes)
        often: dict[int, list[Any]] = {
            key: [] for key, count in counts.items() if count > MAX_EQUAL_HASHES
        }
        for item, key in zip(items, hashes, strict=True) if often else ():
            _note_unequal(often.get(key), item)
    return items


def _note_unequal(others: list[Any] | None, item: Any) -> None:
    """Add an item to those of its hash, unless it equals one: duplicates do no harm."""
    if others is None or item in others:
        return
    others.append(item)
    if len(others) > MAX_EQUAL_HASHES:
        raise CodecError(f"more than {MAX_EQUAL_HASHES} members of a set or dict share one hash")


_EXACT = frozenset(
    {type(None), bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict}
)
_NEEDS_WORK = frozenset({list, dict})
_BUILTINS = (int, float, complex, str, bytes, list, tuple, set, frozenset, dict)


def _as_builtin(value: Any) -> Any:
    """What a value counts as: itself, or the builtin value that it extends."""
    kind = type(value)
    if kind.__module__ == "numpy" and hasattr(kind, "item") and getattr(value, "shape", 0) == ():
        return value.item()  # a number of numpy equals the plain one
    for builtin in _BUILTINS:
        if issubclass(kind, builtin):
            own = kind.__eq__ is not builtin.__eq__ and kind.__module__ != "collections"
            return value if own else _CONVERT[builtin](value)
    return value


# The builtin's own methods, which a subclass cannot bend to run something else.
_CONVERT: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: lambda value: "".join(str.__iter__(value)),
    bytes: lambda value: bytes(bytes.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}
