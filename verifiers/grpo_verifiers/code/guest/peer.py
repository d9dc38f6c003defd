"""One end of the conversation between the candidate's process and the tests' process.

Both sides speak through the host, one at a time: whoever asks waits for the answer, and serves what
the other side asks in the meantime. Values are copied. What cannot be copied stays where it is and
crosses as a handle, for which the other side holds a `Remote`.

`{"id": 1, "do": "call", ...}` asks; `{"re": 1}` with a `value`, a `raise` or the reason why the
result is `unreadable` answers. The host checks every message before it passes it on.
"""

from __future__ import annotations

import itertools
import operator
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import codec, raising
    from grpo_verifiers.code.guest.remote import Remote, abilities_of, stand_in, state_of
else:
    import grpo_code_codec as codec
    import grpo_code_raising as raising
    from grpo_code_remote import Remote, abilities_of, stand_in, state_of

MAX_DEPTH = 40  # calls within calls, from side to side
MAX_HANDLES = 200_000

_OPERATORS = (
    *("abs", "add", "and_", "contains", "delitem", "eq", "floordiv", "ge", "getitem", "gt", "inv"),
    *("le", "lt", "matmul", "mod", "mul", "ne", "neg", "or_", "pos", "pow", "setitem", "sub"),
    *("truediv", "xor"),
)
_BUILTINS = (bool, float, hash, int, isinstance, iter, len, next, repr, reversed, str)
OPERATORS: dict[str, Any] = {
    **{name: getattr(operator, name) for name in _OPERATORS},
    **{function.__name__: function for function in _BUILTINS},
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value: type(value).__exit__(value, None, None, None),
}


class Gone(BaseException):
    """The host has closed the channel: there is nobody left to talk to."""


class Peer:
    """One side: what it has handed out, and what it holds of the other side."""

    def __init__(self, channel: Any, side: str) -> None:
        self.channel = channel
        self.side = side
        self._given: dict[int, Any] = {}
        self._given_ids: dict[int, int] = {}
        self._held: dict[Any, Any] = {}
        self._numbers = itertools.count(1)
        self._depth = 0
        self._thread = threading.get_ident()
        self._lock = threading.RLock()  # threads of the tests take turns

    def ask(self, do: str, target: Any, *args: Any, name: str = "", **keywords: Any) -> Any:
        """Have the other side do something, and wait for what comes of it.

        Args:
            do: "call", "getattr", "setattr", "op" or "resolve".
            target: a name, or the number of a handle.
            args: values for it.
            name: of an attribute or operator.
            keywords: of a call.

        Raises:
            Gone: if there is no other side any more.
            BaseException: what was raised over there.
        """
        if self.side == "candidate" and threading.get_ident() != self._thread:
            raise RuntimeError("only the main thread may call what belongs to the tests")
        with self._lock:
            return self._ask(do, target, args, name, keywords)

    def _ask(self, do: str, target: Any, args: Any, name: str, keywords: Any) -> Any:
        number = next(self._numbers)
        message = {
            "id": number, "do": do, "target": target, "name": name,
            "args": self.pack(list(args)), "keywords": self.pack(keywords),
            "share": self.share() if do == "call" else [],
        }  # fmt: skip
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise RecursionError("calls between the candidate and its tests are too deep")
            self.channel.send(codec.dump(message))
            while True:
                reply = self.receive()
                if "do" in reply:
                    self.answer(reply)
                elif reply.get("re") == number:
                    return self.read(reply, message, args)
        finally:
            self._depth -= 1

    def receive(self) -> Any:
        """The next message.

        Raises:
            Gone: if there will be none.
        """
        frame = self.channel.receive()
        if frame is None:
            raise Gone
        return codec.load(frame)

    def answer(self, message: Any) -> None:
        """Do what the other side asks, and tell it what came of it."""
        reply = self.outcome(lambda: self.do(message))
        self.channel.send(codec.dump({"re": message["id"], **reply}))

    def do(self, message: Any) -> Any:
        """What a request asks for; each side has its own."""
        raise TypeError(f"{self.side} does nothing for {message['do']}")

    def share(self) -> list[str]:
        """What calls of the other side should bring back beside their value."""
        return []

    def read(self, reply: Any, request: Any, args: tuple[Any, ...]) -> Any:
        """The value of an answer, or what it raises."""
        if "value" in reply:
            return self.unpack(reply["value"])
        if "raise" in reply:
            raise raising.rebuild(reply["raise"], may_stop=request["name"] == "next")
        raise TypeError(str(reply.get("unreadable")))

    def outcome(self, run: Any) -> Any:
        """What running something comes to, as the fields of an answer."""
        try:
            value = run()
        except Gone:
            raise
        except BaseException as error:  # noqa: BLE001 - it is told to the other side
            return {"raise": raising.describe(error)}
        try:
            reply = {"value": self.pack(value)}
            codec.dump(reply)
        except codec.CodecError as error:
            is_object = isinstance(error, codec.ForeignValue)
            problem = f"what it returned cannot be passed on: {error}"
            return {"unreadable": problem, "is_object": is_object}
        except BaseException as error:  # noqa: BLE001 - an odd object's own method
            return {"unreadable": f"what it returned cannot be read: {type(error).__name__}"}
        return reply

    def pack(self, value: Any) -> Any:
        """A value for the other side."""
        return codec.pack(value, self._export)

    def unpack(self, tree: Any) -> Any:
        """A value from the other side."""
        return codec.unpack(tree, self._resolve)

    def given(self, handle: Any) -> Any:
        """The object that this side has handed out under a number."""
        if type(handle) is not int or handle not in self._given:
            raise codec.CodecError("a handle that was never given")
        return self._given[handle]

    def _export(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return {"handle": state_of(value).handle, "of": _OTHER[self.side]}
        number = self._given_ids.get(id(value))
        if number is None:
            if len(self._given) >= MAX_HANDLES:
                raise codec.CodecError(f"more than {MAX_HANDLES} objects")
            number = len(self._given) + 1
            self._given[number] = value  # which keeps its id taken
            self._given_ids[id(value)] = number
        return {"handle": number, "of": self.side, **_kind_of(value)}

    def _resolve(self, tree: Any) -> Any:
        handle = tree.get("handle")
        if tree.get("of") == self.side:
            return self.given(handle)
        if tree.get("kind") == "exception":
            return raising.class_of(tuple(tree["bases"]))
        if handle not in self._held:
            self._held[handle] = stand_in(self, handle, tuple(tree.get("can", ())))
        return self._held[handle]


_OTHER = {"candidate": "referee", "referee": "candidate"}


def _kind_of(value: Any) -> Any:
    """What the other side should know about an object."""
    if isinstance(value, type):
        if issubclass(value, BaseException):
            return {"kind": "exception", "bases": raising.bases_of(value)}
        return {"kind": "class", "can": abilities_of(value)}
    return {"kind": "object", "can": abilities_of(value)}
