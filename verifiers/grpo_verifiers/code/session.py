"""The host's end of a conversation with a guest: what arrives is checked before it is believed.

The host gives every request a number that nobody can guess. An answer must carry the number of the
one request that is open: one that comes before its question, twice, or for another job is a broken
protocol, and a guest that breaks it is lost.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.code.checks import Call, Outcome
from grpo_verifiers.code.guest import codec
from grpo_verifiers.code.shown import excerpt, shorten
from grpo_verifiers.sandbox import Guest, GuestJob, Limits, Reply, Sandbox, Status


class SandboxFailure(VerifierError):
    """The sandbox failed; this says nothing about the candidate."""


class Lost(Exception):
    """A guest ended, hung, or broke the protocol; says which."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call with the number that its answer must carry."""

    number: str
    call: Call


class Session:
    """A guest and its limits, used as a context.

    Args:
        sandbox: to start it in.
        guest: name of the guest module.
        order: its payload, plain JSON.
        limits: of the whole job.
        timeout: seconds that one answer may take.
    """

    def __init__(
        self, sandbox: Sandbox, guest: str, order: Mapping[str, Any], limits: Limits, timeout: float
    ) -> None:
        payload = json.dumps(order).encode()
        self._job = GuestJob(guest=guest, payload=payload, limits=limits)
        self._sandbox = sandbox
        self.timeout = timeout
        self._ends = time.monotonic() + limits.wall_seconds
        self._guest: Guest | None = None
        self.stderr = ""

    def __enter__(self) -> Session:
        self._guest = self._sandbox.start(self._job).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._guest is not None:
            self._guest.__exit__(kind, error, trace)

    def send(self, message: Any) -> None:
        """Give the guest a message.

        Raises:
            Lost: if it takes none.
        """
        assert self._guest is not None
        try:
            frame = codec.dump(message)
        except codec.CodecError as error:
            raise Lost(f"broke the protocol: {error}") from error
        if not self._guest.send(frame):
            raise self._lost("takes no more messages")

    def receive(self, within: float | None = None) -> dict[str, Any]:
        """The guest's next message.

        Args:
            within: seconds that are left of the time for the answer, if it has begun.

        Raises:
            Lost: if none comes in time, or it is no message.
            SandboxFailure: if the sandbox is to blame.
        """
        assert self._guest is not None
        limit = self.timeout if within is None else within
        seconds = min(limit, self._ends - time.monotonic())
        frame = self._guest.receive(seconds) if seconds > 0 else None
        if frame is None:
            if not self._guest.is_over:
                self._guest.kill()
                in_all = "" if seconds == limit else ", with all tests before"
                raise Lost(f"timed out after {self.timeout:.3g} s{in_all}")
            raise self._lost("ended before it answered")
        return read_message(frame)

    def _lost(self, what: str) -> Lost:
        """Why the guest is gone, from how its job ended."""
        assert self._guest is not None
        reply = self._guest.close()
        self.stderr = excerpt(reply.stderr)
        return Lost(how_it_ended(reply) or what)


def read_message(frame: bytes) -> dict[str, Any]:
    """The message of a frame, its values still packed.

    Raises:
        Lost: if it is none.
    """
    try:
        message = codec.load(frame)
    except codec.CodecError as error:
        raise Lost(f"broke the protocol: {error}") from error
    if type(message) is not dict:
        raise Lost("broke the protocol: a message that is no object")
    return message


def how_it_ended(reply: Reply) -> str:
    """Why a job did not come to its end, for people; empty if it did.

    Raises:
        SandboxFailure: if that was the sandbox's doing.
    """
    if reply.status is Status.ERROR:
        raise SandboxFailure(f"the sandbox failed: {reply.detail}")
    if reply.status is Status.KILLED and reply.signal is None:
        return f"was stopped: {reply.detail}"
    if reply.status is Status.FINISHED:
        return "exited early" if reply.exit_code == 0 else f"exited with code {reply.exit_code}"
    return {
        Status.TIMEOUT: f"timed out after {reply.seconds:.3g} s",
        Status.MEMORY: "ran out of memory",
        Status.OUTPUT: "wrote too much output",
        Status.KILLED: f"was killed by signal {reply.signal}"
        if reply.signal
        else f"was stopped: {reply.detail}",
    }[reply.status]


def tickets(calls: Iterable[Call]) -> list[Ticket]:
    """Calls with numbers of their own."""
    return [Ticket(secrets.token_hex(8), call) for call in calls]


def packed(ticket: Ticket) -> dict[str, Any]:
    """A call as the candidate's process takes it."""
    call = ticket.call
    return {
        "id": ticket.number,
        "name": call.function,
        "args": codec.pack(list(call.arguments)),
        "keywords": codec.pack(dict(call.keywords)),
    }


def read_outcome(message: Mapping[str, Any], number: str, seconds: float) -> Outcome:
    """What an answer says.

    Raises:
        Lost: if it is not the answer to this question.
    """
    if message.get("re") != number:
        raise Lost("broke the protocol: an answer to no question")
    if "value" in message:
        try:
            return Outcome("value", codec.unpack(message["value"]), seconds=seconds)
        except codec.CodecError as error:
            raise Lost(f"broke the protocol: {error}") from error
    if "raise" in message:
        raised = check_raise(message["raise"])
        text = f"{raised['bases'][0]}: {raised['message']}".rstrip(": ")
        line = f" (line {raised['line']})" if raised["line"] else ""
        return Outcome("raised", None, shorten(text) + line, tuple(raised["bases"]), seconds)
    if type(message.get("unreadable")) is str:
        problem = shorten(message["unreadable"])
        if message.get("is_object") is True:
            return Outcome("object", None, problem, (), seconds)
        return Outcome("unreadable", None, problem, (), seconds)
    raise Lost("broke the protocol: an answer without content")


def check_raise(raised: Any) -> dict[str, Any]:
    """The description of an exception, if it is one.

    Raises:
        Lost: if not.
    """
    shapes = {"bases": list, "message": str, "args": list, "line": int}
    if type(raised) is not dict or {key: type(value) for key, value in raised.items()} != shapes:
        raise Lost("broke the protocol: an exception without a description")
    bases = raised["bases"]
    if not 0 < len(bases) <= 20 or not all(
        type(name) is str and len(name) <= 100 for name in bases
    ):
        raise Lost("broke the protocol: an exception without a name")
    if len(raised["message"]) > 500:
        raise Lost("broke the protocol: an exception with a long message")
    return raised
