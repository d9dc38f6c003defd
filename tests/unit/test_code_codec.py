"""Values that cross between processes: the same on both sides, or refused."""

from __future__ import annotations

import collections
import enum
import fractions
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_verifiers.code.guest import codec

numbers = st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none()
scalars = numbers | st.text() | st.binary() | st.complex_numbers(allow_nan=False)
hashables = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6
)
library = st.dates() | st.datetimes() | st.timedeltas() | st.fractions() | st.times()
values = st.recursive(
    hashables | library,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.tuples(inner)
    ),
    max_leaves=10,
)


def cross(value: Any) -> Any:
    return codec.unpack(codec.load(codec.dump(codec.pack(value))))


def types_of(value: Any) -> Any:
    """Types all the way down, in an order that does not depend on hashes."""
    if isinstance(value, list | tuple):
        return type(value), [types_of(item) for item in value]
    if isinstance(value, dict):
        return dict, [(types_of(key), types_of(item)) for key, item in value.items()]
    return type(value)


@given(values)
def test_values_arrive_equal_and_of_the_same_types(value: Any) -> None:
    assert cross(value) == value
    assert types_of(cross(value)) == types_of(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, 2**14_000, "\ud800", "\0"])
def test_values_at_the_edges(value: Any) -> None:
    assert repr(cross(value)) == repr(value)


def test_nan_arrives() -> None:
    assert math.isnan(cross(math.nan))


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 1


class Point(collections.namedtuple("Point", "x y")):
    pass


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(int, {1: 2}), {1: 2}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, 1),
        (collections.deque([1], 3), collections.deque([1])),
        (range(3), range(3)),
        (fractions.Fraction(1, 3), fractions.Fraction(1, 3)),
    ],
)
def test_subclasses_count_as_what_they_extend(value: Any, plain: Any) -> None:
    assert cross(value) == plain
    assert type(cross(value)) is type(plain)


@pytest.mark.parametrize(
    "value", [Liar(3), object(), [object()], {1: iter([])}, print, int, lambda: 1]
)
def test_objects_are_foreign(value: Any) -> None:
    with pytest.raises(codec.ForeignValue):
        codec.pack(value)


def test_objects_cross_as_handles_where_both_agree() -> None:
    thing = object()
    frame = codec.dump(codec.pack([thing, 1], export=lambda value: {"handle": 7}))
    resolved = codec.unpack(codec.load(frame), resolve=lambda tree: (tree["handle"],))
    assert resolved == [(7,), 1]
    with pytest.raises(codec.CodecError, match="handle"):
        codec.unpack(codec.load(frame))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (nested(codec.MAX_DEPTH), "deeper"),
        (1 << codec.MAX_INT_BITS, "4300 digits"),
        ([0] * (codec.MAX_NODES + 1), "values"),
        ("x" * codec.MAX_BYTES, "bytes"),
    ],
    ids=["deep", "long integer", "many", "large"],
)
def test_limits_of_what_is_sent(value: Any, why: str) -> None:
    with pytest.raises(codec.CodecError, match=why):
        codec.dump(codec.pack(value))


def test_a_list_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(codec.CodecError, match="deeper"):
        codec.pack(value)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"[",
        b"\xff",
        b"[" * 100_000,
        b"1" * 5_000,
        b"[" + b"[]," * 1_300_000 + b"1]",
        b'"' + b"x" * codec.MAX_BYTES + b'"',
        json.dumps({"tuple": 3}).encode(),
        json.dumps({"set": [[1]]}).encode(),
        json.dumps({"dict": [1]}).encode(),
        json.dumps({"dict": [[1], 2]}).encode(),
        json.dumps({"bytes": "0"}).encode(),
        json.dumps({"complex": [1, 2]}).encode(),
        json.dumps({"pickle": "x"}).encode(),
        json.dumps({"list": [], "tuple": []}).encode(),
        json.dumps({"known": []}).encode(),
        json.dumps({"known": ["eval", "1"]}).encode(),
        json.dumps({"known": ["date", 2024, 2, 30]}).encode(),
        json.dumps({"known": ["date", "2024", 1, 1]}).encode(),
        json.dumps({"known": ["range", 0, 10**12, 1]}).encode(),
        json.dumps({"known": ["range", 0, 1, 0]}).encode(),
        json.dumps({"known": ["Fraction", 1, 0]}).encode(),
        json.dumps({"known": ["Decimal", "1e999999"]}).encode(),
        json.dumps({"known": ["deque", 3, None]}).encode(),
        json.dumps({"known": ["deque"]}).encode(),
        json.dumps({"set": [i * (2**61 - 1) for i in range(1000)]}).encode(),
        json.dumps(nested(codec.MAX_DEPTH + 1)).encode(),
    ],
    ids=lambda frame: frame[:30].decode("ascii", "replace"),
)
def test_hostile_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(codec.CodecError):
        codec.unpack(codec.load(frame))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["tuple", "set", "dict", "known", "x"]),
                                      inner, max_size=2)))  # fmt: skip
def test_any_json_is_read_or_refused(tree: Any) -> None:
    try:
        value = codec.unpack(codec.load(codec.dump(tree)))
    except codec.CodecError:
        return
    assert cross(value) == value
