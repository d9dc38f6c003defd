"""The candidate's process: loads its program, makes calls, and states what came of them.

Expected values never get here. Whatever the candidate does to this interpreter, all it can reach is
the channel to the host, on which it can state values.

Source of the payload: {"context", "code", "calls": [{"id", "name", "args", "keywords"}], "serve"}.
The first frame says whether the program could be loaded, then there is one for each call; after
them, if `serve` is true, requests of the tests' process are answered until the channel is closed.
"""

from __future__ import annotations

import io
import json
import random
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_verifiers.code.guest import codec
    from grpo_verifiers.code.guest.peer import OPERATORS, Gone, Peer
else:
    import grpo_code_codec as codec
    from grpo_code_peer import OPERATORS, Gone, Peer

MODULE = "solution"
MAX_PRINTED = 100_000  # characters of one call that the tests may look at


def main(channel: Any, payload: bytes) -> None:
    """Run the candidate."""
    order = json.loads(payload)
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    random.seed(order["seed"])
    peer = Candidate(channel, module, order["serve"])
    loaded = peer.outcome(lambda: load(module, order["context"], order["code"]))
    channel.send(codec.dump({"re": "load", **loaded}))
    if "value" not in loaded:
        return
    for call in order["calls"]:
        peer.answer({"do": "call", "target": call["name"], **call})
    if order["serve"]:
        try:
            while True:
                peer.answer(peer.receive())
        except Gone:
            pass


def load(module: types.ModuleType, context: str, code: str) -> None:
    """Execute the program as a module that is not `__main__`."""
    if context:
        exec(compile(context, "<prompt>", "exec"), module.__dict__)
    exec(compile(code, "<completion>", "exec"), module.__dict__)


class Candidate(Peer):
    """Does what the tests ask with the candidate's functions and objects."""

    def __init__(self, channel: Any, module: types.ModuleType, gives_handles: bool) -> None:
        super().__init__(channel, "candidate")
        self._module = module
        self._gives_handles = gives_handles
        self._extra: dict[str, Any] = {}

    def answer(self, message: Any) -> None:
        """Do what is asked; on request, say how the arguments look now and what was printed."""
        self._extra = {}
        reply = self.outcome(lambda: self.do(message))
        extra, self._extra = self._extra, {}
        frame = {"re": message["id"], **reply}
        if extra:
            frame = {**frame, **extra}
        self.channel.send(codec.dump(frame))

    def do(self, message: Any) -> Any:
        """Call, read or write an attribute, apply an operator, or tell which names there are."""
        what, target = message["do"], message["target"]
        if what == "resolve":
            return self._known(self.unpack(message["args"]))
        args = self.unpack(message["args"])
        if what == "op":
            return OPERATORS[message["name"]](*args)
        if what == "getattr":
            return getattr(self.given(target), message["name"])
        if what == "setattr":
            return setattr(self.given(target), message["name"], *args)
        function = self.find(target) if type(target) is str else self.given(target)
        return self._call(function, args, self.unpack(message["keywords"]), message)

    def _export(self, value: Any) -> Any:
        if not self._gives_handles:
            raise codec.ForeignValue(
                f"it is or holds a {type(value).__name__}, not a builtin value"
            )
        return super()._export(value)

    def find(self, name: str) -> Any:
        """What the program defines by a name; LeetCode's are methods of a class `Solution`.

        Raises:
            NameError: if there is none.
        """
        found = vars(self._module).get(name)
        if found is None:
            solution = vars(self._module).get("Solution")
            if solution is None or not hasattr(solution, name):
                raise NameError(f"name '{name}' is not defined")
            found = getattr(solution(), name)
        return found

    def _call(self, function: Any, args: Any, keywords: Any, message: Any) -> Any:
        share = message.get("share")
        if not share:
            return function(*args, **keywords)
        printed = io.StringIO()
        stdout, sys.stdout = sys.stdout, printed
        try:
            return function(*args, **keywords)
        finally:
            sys.stdout = stdout
            self._extra = {"printed": printed.getvalue()[:MAX_PRINTED]}
            if "arguments" in share:
                self._extra["changed"] = self._repacked(args)

    def _repacked(self, args: Any) -> Any:
        try:
            packed = self.pack(args)
            codec.dump(packed)
        except codec.CodecError:
            return None
        return packed

    def _known(self, names: Any) -> Any:
        known = {}
        for name in names:
            try:
                known[name] = self.find(name)
            except NameError:
                continue
        return known
