"""The caller's side of one job: reads what it writes, caps it, and waits for its end."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from grpo_verifiers.sandbox.api import CommandJob, GuestJob, Job, Reply, ScriptJob, Status
from grpo_verifiers.sandbox.inside import frames, wire
from grpo_verifiers.sandbox.inside.limits import JobLimits
from grpo_verifiers.sandbox.link import memory_file
from grpo_verifiers.sandbox.verdict import read_report

_CHUNK = 1 << 16
_GRACE = 3.0  # seconds past the wall limit in which the zygote must have answered


class Running:
    """A job under way: its pipes, its channel and its report. For one thread at a time."""

    def __init__(self, job: Job, order: Callable[[bytes, list[int]], None]) -> None:
        """Start the job.

        Args:
            job: what to run.
            order: hands an order and its descriptors to a zygote.

        Raises:
            OSError: if the zygote is gone, or descriptors or memory run out.
            ValueError: for a file name that leads out of the working directory.
        """
        self._limits = job.limits
        self._nonce = secrets.randbits(63)
        self._reader = frames.FrameReader(self._nonce, job.limits.frame_bytes)
        self._texts: dict[int, bytearray] = {}
        self._report: dict[str, Any] | None = None
        self._files: dict[str, bytes] = {}
        self._cause = ""
        self._channel: socket.socket | None = None
        self._ours = contextlib.ExitStack()
        self._poll = select.poll()
        try:
            with contextlib.ExitStack() as theirs:
                message, files = self._open(job, theirs)
                order(message, files)
        except BaseException:
            self._ours.close()
            raise
        self._due = time.monotonic() + job.limits.wall_seconds + _GRACE

    @property
    def is_over(self) -> bool:
        """Whether no further frame will come."""
        return self._channel is None

    @property
    def is_abandoned(self) -> bool:
        """Whether the zygote ended, or did not answer, before the job was over."""
        return self._report is not None and "lost" in self._report

    def send(self, frame: bytes) -> bool:
        """Give the guest a frame, reading meanwhile what it writes; False if it takes no more."""
        view = memoryview(frames.encode(frame, self._nonce))
        while view:
            if self._channel is None or self._report is not None:
                return False
            try:
                view = view[self._channel.send(view) :]
            except BlockingIOError:
                self._step(None, wants_to_send=True)
            except OSError:
                self._close_channel()
        return True

    def receive(self, timeout: float | None) -> bytes | None:
        """The guest's next frame; None if there is none in time, or will be none."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                frame = self._reader.next()
            except frames.BrokenFrame as error:
                self._stop(f"it sent {error}")
                return None
            if frame is not None:
                return frame
            left = None if until is None else until - time.monotonic()
            if self._channel is None or (left is not None and left <= 0):
                return None
            self._step(left)

    def kill(self) -> None:
        """End it at once."""
        if self._report is None:
            self._cause = self._cause or "ended by its caller"
            with contextlib.suppress(OSError):
                self._report_socket.shutdown(socket.SHUT_WR)

    def abandon(self) -> Reply:
        """End it at once and do not wait: a zygote kills jobs whose callers are gone."""
        self._channel = None
        self._ours.close()
        return Reply(Status.KILLED, detail="ended by its caller")

    def finish(self) -> Reply:
        """Close the channel and wait for the end; whether it ends well is up to its limits."""
        self._close_channel()
        try:
            while self._report is None:
                self._step(None)
            self._drain()
            return self._reply()
        finally:
            self._ours.close()

    def _open(self, job: Job, theirs: contextlib.ExitStack) -> tuple[bytes, list[int]]:
        """Make all descriptors; the guest's ends are closed with `theirs`."""
        _check_names(job)
        payload, profile = _payload(job, self._nonce)
        files = []
        for name, content in (("job", wire.encode_payload(payload)), ("stdin", job.stdin)):
            files.append(memory_file(name, content, seal=name == "stdin"))
            theirs.callback(os.close, files[-1])
        for _ in ("stdout", "stderr"):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            self._ours.callback(os.close, reading)
            theirs.callback(os.close, writing)
            os.set_blocking(reading, False)
            self._texts[reading] = bytearray()
            self._poll.register(reading, select.POLLIN)
            files.append(writing)
        self._report_socket, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.enter_context(self._report_socket)
        files.append(theirs.enter_context(end).fileno())
        self._report_socket.setblocking(False)
        self._poll.register(self._report_socket, select.POLLIN)
        if isinstance(job, GuestJob):
            self._channel, end = socket.socketpair()
            self._ours.enter_context(self._channel)
            files.append(theirs.enter_context(end).fileno())
            self._channel.setblocking(False)
            self._poll.register(self._channel, select.POLLIN)
        order = wire.make_order(profile, JobLimits(**asdict(job.limits)), tuple(job.fetch))
        return wire.encode_order(order), files

    def _step(self, timeout: float | None, *, wants_to_send: bool = False) -> None:
        """Wait for something to happen and take it in."""
        now = time.monotonic()
        wait = self._due - now if timeout is None else min(timeout, self._due - now)
        if self._channel is not None:
            read = 0 if self._reader.is_full else select.POLLIN
            self._poll.modify(self._channel, read | (select.POLLOUT if wants_to_send else 0))
        for file, events in self._poll.poll(max(0.0, wait * 1000)):
            if file in self._texts:
                self._take_text(file)
            elif self._channel is not None and file == self._channel.fileno():
                if events & ~select.POLLOUT:
                    self._take_frames(self._channel)
            else:
                self._take_report()
        if self._report is None and time.monotonic() >= self._due:
            self._report = {"lost": "the sandbox's process did not answer in time"}
            self._close_channel()

    def _take_text(self, file: int) -> bool:
        """Read output; False when there is none now, or ever."""
        text = self._texts[file]
        try:
            data = os.read(file, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._ignore(file)
            return False
        room = self._limits.output_bytes - len(text)
        text += data[:room]
        if len(data) > room:
            self._stop("output")
            self._ignore(file)
            return False
        return True

    def _ignore(self, file: int) -> None:
        with contextlib.suppress(KeyError):  # it was before
            self._poll.unregister(file)

    def _take_frames(self, channel: socket.socket) -> None:
        try:
            data = channel.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._reader.feed(data)
        else:
            self._close_channel()

    def _take_report(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._report_socket, wire.MAX_ORDER, 64)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        try:
            message = json.loads(data) if data else {"lost": "the sandbox's process has ended"}
            if "failed" in message and self._report is None:
                self._cause = f"failed: {message['failed']}"
                if "status" not in message:
                    return
            self._report = message
            for name, file in zip(message.get("files", ()), files, strict=False):
                self._files[name] = _read_file(file, self._limits.file_mb << 20)
        finally:
            for file in files:
                os.close(file)

    def _stop(self, cause: str) -> None:
        """Kill it for what it did."""
        self._cause = self._cause or cause
        self._close_channel()
        self.kill()

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._poll.unregister(self._channel)
            self._channel.close()
            self._channel = None

    def _drain(self) -> None:
        """Read what is left in the pipes; nobody can write to them any more."""
        for file in self._texts:
            while self._take_text(file):
                pass

    def _reply(self) -> Reply:
        assert self._report is not None
        stdout, stderr = (bytes(text) for text in self._texts.values())
        return read_report(
            self._report, self._cause, self._limits, stdout=stdout, stderr=stderr, files=self._files
        )


def _check_names(job: Job) -> None:
    for name in (*job.files, *job.fetch):
        if name.startswith("/") or ".." in name.split("/") or "\0" in name or not name.strip("./"):
            raise ValueError(
                f"files of a job have names inside of its working directory, got {name!r}."
            )


def _payload(job: Job, nonce: int) -> tuple[wire.Payload, str]:
    """What the job's process is told, and its profile."""
    if isinstance(job, ScriptJob):
        source = job.source.encode() if isinstance(job.source, str) else job.source
        return wire.Payload("script", source, files=job.files, executable=()), "python"
    if isinstance(job, GuestJob):
        limit = job.limits.frame_bytes
        return wire.Payload(
            "guest", job.payload, job.guest, nonce, limit, files=job.files
        ), "python"
    if isinstance(job, CommandJob):
        payload = wire.Payload(
            "command", argv=job.argv, env=job.env, files=job.files, executable=job.executable
        )
        return payload, "command"
    raise TypeError(f"a job must be a ScriptJob, GuestJob or CommandJob, got {type(job).__name__}.")


def _read_file(file: int, limit: int) -> bytes:
    parts = []
    while limit > 0 and (part := os.read(file, min(limit, 1 << 20))):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)
