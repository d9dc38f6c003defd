"""Stand-ins for objects of the other process: what is done to them is done over there.

The candidate must not be asked to compare its objects with values of the tests: it would see them,
and could call everything equal, or every difference zero. So a comparison needs an object on both
sides, and it, arithmetic and `in` need one that the tests themselves have made from a class of the
candidate's, as in `Vector(1, 2) + Vector(3, 4) == Vector(4, 6)`. What functions return can state
values, through attributes, methods, items and iteration; it cannot judge.
"""

from __future__ import annotations

from typing import Any

# Methods by which an object would judge the tests' values; comparisons by their names included.
_JUDGING = frozenset(
    [
        *("startswith", "endswith", "issubset", "issuperset", "isdisjoint", "count", "index"),
        *("rindex", "find", "rfind", "equals", "__eq__", "__ne__", "__lt__", "__le__", "__gt__"),
        *("__ge__", "__contains__", "__sub__", "__rsub__", "__xor__", "__rxor__"),
    ]
)
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_UNARY = {"neg": "neg", "pos": "pos", "abs": "abs", "invert": "inv"}
_ASKED = ("len", "iter", "next", "reversed", "getitem", "setitem", "delitem", "int", "float")
_MAX_CLASSES = 1_000  # of stand-ins, by what their objects can do


class State:
    """What a stand-in knows of its object."""

    __slots__ = ("builds", "handle", "made", "origin", "peer")

    def __init__(self, peer: Any, handle: int, made: bool) -> None:
        self.peer, self.handle, self.made = peer, handle, made
        self.builds = False  # a class that the tests know by name
        self.origin: Any = None  # the class and the arguments that it was made of


class Remote:
    """A stand-in, with what every object has; subclasses have more, as their objects do."""

    __slots__ = ("__state", "__weakref__")

    def __init__(self, peer: Any, handle: int, made: bool = False) -> None:
        object.__setattr__(self, "_Remote__state", State(peer, handle, made))

    def __getattr__(self, name: str) -> Any:
        if name in _JUDGING and not may_be_asked(self):
            raise AttributeError(f"a function returned an object, whose {name}() is not asked")
        return state_of(self).peer.ask("getattr", state_of(self).handle, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        state_of(self).peer.ask("setattr", state_of(self).handle, value, name=name)

    def __str__(self) -> str:
        return operate("str", self)

    def __repr__(self) -> str:
        return operate("repr", self)

    def __hash__(self) -> int:
        return operate("hash", self) if state_of(self).made else hash(state_of(self).handle)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Remote) and bool(operate("isinstance", instance, self))

    def __eq__(self, value: Any) -> bool:
        return same(self, value) or compared("eq", self, value)

    def __ne__(self, value: Any) -> bool:
        return not same(self, value) and compared("ne", self, value)

    def __lt__(self, value: Any) -> bool:
        return compared("lt", self, value)

    def __le__(self, value: Any) -> bool:
        return compared("le", self, value)

    def __gt__(self, value: Any) -> bool:
        return compared("gt", self, value)

    def __ge__(self, value: Any) -> bool:
        return compared("ge", self, value)


def stand_in(peer: Any, handle: int, abilities: tuple[str, ...]) -> Remote:
    """A stand-in for an object that has these special methods, named without underscores."""
    return _class_of(frozenset(abilities).intersection(ABILITIES))(peer, handle)


def abilities_of(value: Any) -> list[str]:
    """The special methods of an object that a stand-in can have."""
    # Not hasattr: every class can be called, for all that its instances cannot.
    methods = {name for kind in type(value).__mro__ for name in vars(kind)}
    return [name for name in ABILITIES if f"__{name}__" in methods]


def state_of(remote: Any) -> State:
    """What a stand-in knows."""
    return object.__getattribute__(remote, "_Remote__state")


def made(result: Any) -> Any:
    """A stand-in of its own for what the tests have made.

    The same object, got from a function, is another stand-in: a method that returns `self` must
    not hand out an object that may judge.
    """
    if not isinstance(result, Remote):
        return result
    return type(result)(state_of(result).peer, state_of(result).handle, True)


def may_be_asked(remote: Any) -> bool:
    """Whether an object may judge by itself; on the candidate's side all of them may."""
    state = state_of(remote)
    return state.made or state.peer.side == "candidate"


def operate(name: str, *operands: Any) -> Any:
    """The result of an operator that the object's own side applies."""
    peer = next(state_of(item).peer for item in operands if isinstance(item, Remote))
    return peer.ask("op", 0, *operands, name=name)


def same(left: Any, right: Any) -> bool:
    """Whether both stand for one object."""
    return isinstance(right, Remote) and state_of(left).handle == state_of(right).handle


def compared(name: str, left: Any, right: Any) -> bool:
    """The result of a comparison, where both are objects.

    Raises:
        TypeError: where one is a value, or neither was made by the tests.
    """
    if not isinstance(right, Remote):
        if state_of(left).peer.side == "candidate":
            return bool(operate(name, left, right))
        raise TypeError("an object is compared with a value; only builtin values can be equal")
    if not (may_be_asked(left) or may_be_asked(right)):
        raise TypeError("objects that functions returned are not compared with each other")
    result = bool(operate(name, left, right))
    if name in ("eq", "ne") and result is (name == "eq") and state_of(left).peer.side == "referee":
        _check_that_something_differs(left, right)
    return result


def _check_that_something_differs(left: Any, right: Any) -> None:
    """Ask control questions, since a class may call everything equal.

    What one side was made from is changed, and the other side asked again.

    Raises:
        TypeError: if it calls itself unequal, too, or equal to all that has been changed.
    """
    if operate("ne", left, right):
        raise TypeError("an object is equal and unequal to the same")
    for item, other in ((right, left), (left, right)):
        answers = [_is_equal(other, control) for control in _controls(item)]
        if answers:
            if all(answers):
                raise TypeError("an object is equal to objects made from other values, too")
            return


def _controls(item: Any) -> Any:
    """Objects made from other values than this one was, as far as they can be made."""
    if state_of(item).origin is None:
        return
    kind, args, keywords = state_of(item).origin
    for step in (1, 12):
        changed = [_other(value, step * index) for index, value in enumerate(args, 1)]
        named = {key: _other(value, step) for key, value in keywords.items()}
        if not all(map(_is_identical, [*changed, *named.values()], [*args, *keywords.values()])):
            try:
                yield state_of(kind).peer.ask("call", state_of(kind).handle, *changed, **named)
            except Exception:  # noqa: BLE001 - not a value that the class takes
                continue


def _is_equal(left: Any, right: Any) -> bool:
    try:
        return bool(operate("eq", left, right))
    except Exception:  # noqa: BLE001 - which is no claim to be equal
        return False


def _is_identical(left: Any, right: Any) -> bool:
    return left is right


def _other(value: Any, step: int) -> Any:
    """Another value of the same type; what has none stays."""
    if type(value) in (int, float):
        return value + step
    if type(value) is str:
        return value + "x" * step
    return [*value, step] if type(value) is list else value


def applied(name: str, left: Any, right: Any) -> Any:
    """The result of arithmetic.

    Raises:
        TypeError: where neither operand was made by the tests.
    """
    if not any(isinstance(item, Remote) and may_be_asked(item) for item in (left, right)):
        raise TypeError("arithmetic on an object that a function returned is not asked for")
    return made(operate(name, left, right))


def _call(self: Any, *args: Any, **keywords: Any) -> Any:
    """Call the object; what a class makes, the tests have made."""
    state = state_of(self)
    result = state.peer.ask("call", state.handle, *args, **keywords)
    if not state.builds or not isinstance(result, Remote):
        return result
    result = made(result)
    state_of(result).origin = (self, args, keywords)
    return result


def _contains(self: Any, item: Any) -> bool:
    if not may_be_asked(self):
        raise TypeError("membership in an object that a function returned is not asked for")
    return bool(operate("contains", self, item))


def _exit(self: Any, *error: Any) -> None:
    operate("exit", self)


def _asked(name: str) -> Any:
    return lambda self, *operands: operate(name, self, *operands)


def _unary(name: str) -> Any:
    """What becomes of an object that the tests have made, they have made, too."""
    return lambda self: (made if may_be_asked(self) else _same)(operate(name, self))


def _same(result: Any) -> Any:
    return result


def _binary(name: str) -> Any:
    return lambda self, value: applied(name, self, value)


def _reflected(name: str) -> Any:
    return lambda self, value: applied(name, value, self)


def _operator(name: str) -> str:
    return f"{name}_" if name in ("and", "or") else name  # as the module `operator` calls it


ABILITIES: dict[str, Any] = {
    "call": _call,
    "contains": _contains,
    "enter": _asked("enter"),
    "exit": _exit,
    "bool": lambda self: bool(operate("bool", self)),
    **{name: _asked(name) for name in _ASKED},
    **{name: _unary(operator) for name, operator in _UNARY.items()},
    **{name: _binary(_operator(name)) for name in _BINARY},
    **{f"r{name}": _reflected(_operator(name)) for name in _BINARY},
}
_classes: dict[frozenset[str], type[Remote]] = {}


def _class_of(abilities: frozenset[str]) -> type[Remote]:
    if abilities not in _classes:
        if len(_classes) >= _MAX_CLASSES:
            raise TypeError("objects of too many kinds")
        methods = {f"__{name}__": ABILITIES[name] for name in abilities}
        _classes[abilities] = type("Remote", (Remote,), {"__slots__": (), **methods})
    return _classes[abilities]
