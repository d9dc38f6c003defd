"""What crosses between the caller, the zygote and a job.

An order is one small message to the zygote: limits and names. All that belongs to the job itself,
its code and files, lies in a memory file that only the job's own process opens, so that nothing of
one job stays in the zygote's memory for the next to find.
"""

from __future__ import annotations

import json
import marshal
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from .limits import JobLimits

MAX_ORDER = 1 << 14  # bytes of an order or a report


@dataclass(frozen=True, slots=True)
class Order:
    """What the zygote knows of a job. Its descriptors follow in the order of `DESCRIPTORS`.

    Attributes:
        profile: "python" or "command".
        wall_seconds: how long it may take.
        fetch: files to hand out at the end.
        limits: fields of `JobLimits`, which only the job's process looks at.
    """

    profile: str
    wall_seconds: float
    fetch: tuple[str, ...]
    limits: tuple[Any, ...]


DESCRIPTORS = ("payload", "stdin", "stdout", "stderr", "report", "channel")


@dataclass(frozen=True, slots=True)
class Payload:
    """What the job's own process knows besides.

    Attributes:
        kind: "script", "guest" or "command".
        code: source of a script, or the payload of a guest.
        guest: name of a guest module.
        nonce: marks this job's frames.
    """

    kind: str
    code: bytes = b""
    guest: str = ""
    nonce: int = 0
    frame_bytes: int = 0
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    executable: tuple[str, ...] = ()


def make_order(profile: str, limits: JobLimits, fetch: tuple[str, ...]) -> Order:
    """An order for a job with these limits."""
    return Order(profile, limits.wall_seconds, fetch, astuple(limits))


def encode_order(order: Order) -> bytes:
    """As one message."""
    return marshal.dumps((order.profile, order.wall_seconds, order.fetch, order.limits))


def decode_order(message: bytes) -> Order:
    """From the caller, whom the zygote trusts."""
    return Order(*marshal.loads(message))


def encode_payload(payload: Payload) -> bytes:
    """All that the job's own process is told."""
    fields = (getattr(payload, name) for name in Payload.__slots__)
    return marshal.dumps(tuple(dict(x) if isinstance(x, Mapping) else x for x in fields))


def read_payload(file: int) -> Payload:
    """The inverse, from a file at its start; from the caller, whom the job's process trusts."""
    return Payload(*marshal.loads(_read(file, os.fstat(file).st_size)))


def encode_report(fields: Mapping[str, Any]) -> bytes:
    """A report on a job, by the zygote or by the job's process before it is confined."""
    return json.dumps(fields).encode()[:MAX_ORDER]


def write_all(file: int, content: bytes) -> None:
    """Write all of it."""
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _read(file: int, size: int) -> bytes:
    """Exactly `size` bytes.

    Raises:
        EOFError: if there are fewer.
    """
    parts = []
    while size:
        part = os.read(file, size)
        if not part:
            raise EOFError("the job's description is cut off.")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
