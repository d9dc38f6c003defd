"""What trainer, zygote, and workers say to each other: JSON behind a length, nothing is unpickled.

A reply comes from a process that ran a stranger's code and may be confused. It is bounded in size
and read field by field; whatever does not fit is a ValueError.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Collection
from typing import Any

from grpo_core.types import Json, Sample, Status, StepScore, Verdict

MAX_BATCH = 256  # samples in one call
MAX_DETAILS = 1 << 16  # bytes of one verdict's details
MAX_REASON = 2_000  # characters
MAX_STEPS = 2_000  # of one completion
MAX_REPLY = MAX_BATCH * (MAX_DETAILS + 12 * MAX_REASON + 40 * MAX_STEPS)  # bytes of one reply
_LENGTH = struct.Struct(">I")
_CHUNK = 1 << 16
_MAX_CHUNKS = 64  # at once, so that who never stops sending does not keep others waiting


def to_frame(text: str) -> bytes:
    """One message as bytes."""
    data = text.encode()
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Puts frames together from whatever pieces a stream socket delivers."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete once `data` has arrived.

        Raises:
            ValueError: if a frame is announced that is larger than the limit.
        """
        self._buffer += data
        frames = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if self._limit is not None and length > self._limit:
                raise ValueError(f"a message of {length} bytes, more than {self._limit}")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return frames


def receive_available(connection: socket.socket) -> tuple[bytes, bool]:
    """What a non-blocking socket holds right now (or much of it), and whether it is closed."""
    pieces: list[bytes] = []
    while len(pieces) < _MAX_CHUNKS:
        try:
            data = connection.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return b"".join(pieces), False
        except OSError:
            return b"".join(pieces), True
        if not data:
            return b"".join(pieces), True
        pieces.append(data)
        if len(data) < _CHUNK:
            break
    return b"".join(pieces), False


def encode_sample(sample: Sample, reads: Collection[str] = ()) -> str:
    """A sample as JSON, with those of its large fields that its verifier reads.

    Raises:
        TypeError, ValueError, RecursionError: if reference or meta are not plain JSON values.
    """
    fields = [sample.prompt, sample.completion, sample.reference, dict(sample.meta)]
    if reads:
        messages = [dict(message) for message in sample.messages] if "messages" in reads else []
        token_ids = list(sample.token_ids) if "token_ids" in reads else []
        fields += [messages, token_ids]
    return json.dumps(fields)


def decode_sample(value: Any) -> Sample:
    """The inverse of `encode_sample`, after the JSON was read."""
    return Sample(*value)


def encode_verdict(verdict: Verdict) -> str:
    """A verdict as JSON, its reason clipped; details that are too large are left out and said so.

    Raises:
        TypeError, ValueError, RecursionError: if it does not hold plain JSON values.
    """
    head = [str(Status(verdict.status)), verdict.score, str(verdict.reason)[:MAX_REASON]]
    details = json.dumps(dict(verdict.details), allow_nan=False)
    if len(details) > MAX_DETAILS:
        details = json.dumps({"left_out": f"details of {len(details)} bytes"})
    if len(verdict.steps) > MAX_STEPS:
        raise ValueError(f"{len(verdict.steps)} steps, more than {MAX_STEPS}")
    steps = [[int(step.end), float(step.score)] for step in verdict.steps]
    parts = [*(json.dumps(part, allow_nan=False) for part in head), details, json.dumps(steps)]
    return f"[{','.join(parts)}]"


def decode_verdict(value: Json, verifier: str, version: str, seconds: float) -> Verdict:
    """The inverse of `encode_verdict`, after the JSON was read.

    Raises:
        ValueError: if `value` is not an encoded verdict.
    """
    if not (isinstance(value, list) and len(value) == 5):
        raise ValueError(f"{value!r:.80} is not a verdict")
    status, score, reason, details, steps = value
    if not (isinstance(reason, str) and isinstance(details, dict) and isinstance(steps, list)):
        raise ValueError(f"{value!r:.80} is not a verdict")
    steps = tuple(StepScore(int(end), float(score)) for end, score in steps)
    return Verdict(status, score, reason, details, seconds, verifier, version, steps)
