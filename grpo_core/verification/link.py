"""One worker as the trainer sees it: a connection, the calls it was given, and their answers."""

from __future__ import annotations

import json
import math
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from grpo_core.types import Json, Verdict
from grpo_core.verification.calls import Call, Failure
from grpo_core.verification.protocol import (
    MAX_REPLY,
    FrameReader,
    decode_verdict,
    receive_available,
    to_frame,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker said to a call: its verdicts, or how the verifier failed."""

    verdicts: list[Verdict] = field(default_factory=list)
    failure: Failure | None = None
    seconds: float = 0.0


class WorkerLink:
    """A worker process, from the order to fork it to the report of its end.

    Attributes:
        role: whose calls it serves; see `VerifierCard.role`.
        calls: given to it and not answered yet; it works on the first.
        answered: how many calls it has answered.
        pid: None until the zygote has reported it.
        started: when it began the first call; None while there is none.
        overdue: when the zygote must have reported what was ordered last; None if it has.
        is_blocked: some bytes wait until it reads.
        is_closed: it has closed the connection.
        problem: why its answers cannot be understood; then it is not listened to any more.
        failure, blamed: set when we end it: what happened, and in which call.
    """

    def __init__(self, number: int, role: str, connection: socket.socket, overdue: float) -> None:
        self.number = number
        self.role = role
        self.connection = connection
        self.calls: deque[Call] = deque()
        self.answered = 0
        self.pid: int | None = None
        self.started: float | None = None
        self.overdue: float | None = overdue
        self.is_blocked = False
        self.is_closed = False
        self.is_ending = False
        self.problem = ""
        self.failure: Failure | None = None
        self.blamed: Call | None = None
        self._reader = FrameReader(MAX_REPLY)
        self._outgoing = bytearray()

    @property
    def seconds(self) -> float:
        """How long it has worked on the first call."""
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def deadline(self) -> float:
        """Seconds it has for the first call."""
        return self.calls[0].card.deadline if self.calls else math.inf

    def send(self, calls: list[Call]) -> None:
        """Give it calls."""
        self.calls.extend(calls)
        for call in calls:
            self._outgoing += to_frame(call.text)
        self.flush()

    def flush(self) -> None:
        """Send what still waits, as far as the connection takes it."""
        try:
            while self._outgoing:
                del self._outgoing[: self.connection.send(self._outgoing)]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._outgoing.clear()  # it is gone; its end will be reported
        self.is_blocked = bool(self._outgoing)

    def receive(self) -> list[tuple[Call, Answer]]:
        """The answers that have arrived."""
        data, self.is_closed = receive_available(self.connection)
        answers: list[tuple[Call, Answer]] = []
        try:
            for frame in () if self.problem else self._reader.feed(data):
                if not self.calls:
                    raise ValueError("an answer to nothing")
                answer = _read_answer(frame, self.calls[0])
                answers.append((self.calls.popleft(), answer))
        except ValueError as error:
            self.problem = f"{error!s:.200}"
        self.answered += len(answers)
        return answers

    def end(self, failure: Failure | None, overdue: float) -> None:
        """Note that it is being killed; `failure` is the first call's."""
        self.is_ending = True
        self.failure = failure
        self.blamed = self.calls[0] if failure and self.calls else None
        self.overdue = overdue


def _read_answer(frame: bytes, call: Call) -> Answer:
    """Raises ValueError for anything but an answer to the call."""
    try:
        message = json.loads(frame)
        seconds = float(message["seconds"])
        if message["id"] != call.id or not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError("an answer to another call")
        if "failure" in message:
            return Answer([], _read_failure(message["failure"], seconds), seconds)
        verdicts, card = message["verdicts"], call.card
        if len(verdicts) != (len(call.jobs) if call.kind == "verify" else 0):
            raise ValueError("a wrong number of verdicts")
        share = seconds / len(call.jobs)
        decoded = [decode_verdict(item, card.name, card.version, share) for item in verdicts]
        return Answer(decoded, None, seconds)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_failure(value: Json, seconds: float) -> Failure:
    cause, details = value
    if not (isinstance(cause, str) and isinstance(details, dict)):
        raise ValueError("a malformed failure")
    return Failure(cause, details=details, seconds=seconds)
