"""The default backend: a warm interpreter of ours that forks a confined child for every job."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from grpo_verifiers.sandbox import reading
from grpo_verifiers.sandbox.api import (
    CommandJob,
    Guest,
    GuestJob,
    Job,
    Layer,
    Reply,
    SandboxUnavailable,
    ScriptJob,
    Status,
)
from grpo_verifiers.sandbox.inside.setup import Setup
from grpo_verifiers.sandbox.link import ZygoteLink
from grpo_verifiers.sandbox.running import Running


@dataclass(frozen=True, slots=True)
class Proof:
    """What a self-test has found.

    Attributes:
        layers: as used and proved.
        attempts: what was tried -> whether it was stopped, and what was seen.
    """

    layers: tuple[Layer, ...]
    attempts: Mapping[str, tuple[bool, str]]


class ZygoteSandbox:
    """Runs jobs in children of a zygote, which is started on first use and replaced if it breaks.

    After a fork it starts a zygote of its own: two processes never share one.
    """

    job_types: tuple[type[Job], ...] = (ScriptJob, GuestJob, CommandJob)

    def __init__(
        self,
        name: str,
        setup: Setup,
        prove: Callable[[ZygoteSandbox, ZygoteLink], Proof],
        *,
        allow_weaker: Collection[str] = (),
        wrapper: Sequence[str] = (),
    ) -> None:
        """Take note of what to start; nothing is started yet.

        Args:
            name: of the backend.
            setup: for the zygote.
            prove: called with each new zygote before it takes jobs; returns what it found, or
                raises SandboxUnavailable if that is not what was asked for.
            allow_weaker: layers that may be missing.
            wrapper: a command to run the zygote in.
        """
        self._allow_weaker = frozenset(allow_weaker)
        self.name = name
        self._setup = setup
        self._prove = prove
        self._wrapper = wrapper
        self._lock = threading.RLock()
        self._link: ZygoteLink | None = None
        self._proof = Proof((), {})
        self._owner = os.getpid()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Isolation as measured at start.

        Raises:
            SandboxUnavailable: if it is weaker than what was asked for.
        """
        self._ready()
        return self._proof.layers

    @property
    def attempts(self) -> Mapping[str, tuple[bool, str]]:
        """What the self-test tried -> whether it was stopped, and what was seen."""
        self._ready()
        return self._proof.attempts

    @property
    def pid(self) -> int:
        """Process id of the zygote, or of what stands around it."""
        return self._ready().pid

    def run(self, job: Job) -> Reply:
        """Run a job to its end.

        Raises:
            SandboxUnavailable: if isolation is weaker than what was asked for.
        """
        running = self._start(self._ready, job)
        return running if isinstance(running, Reply) else self._finish(running)

    def start(self, job: GuestJob) -> Guest:
        """Start a guest and talk with it.

        Raises:
            SandboxUnavailable: if isolation is weaker than what was asked for, or no guest can be
                started at all.
        """
        self._check_guest(job)
        running = self._start(self._ready, job)
        if isinstance(running, Reply):
            raise SandboxUnavailable(f"a guest cannot be started: {running.detail}.")
        return RunningGuest(running, self._finish)

    def run_on(self, link: ZygoteLink, job: Job) -> Reply:
        """Run a job on a zygote that is not proved yet; for its self-test."""
        running = self._start(lambda: link, job)
        return running if isinstance(running, Reply) else running.finish()

    def start_on(self, link: ZygoteLink, job: GuestJob) -> Guest:
        """As `start`, on a zygote that is not proved yet; for its self-test."""
        return RunningGuest(Running(job, link.order), Running.finish)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end anything may be gone
            self.close()

    def close(self) -> None:
        """End the zygote and all jobs."""
        with self._lock:
            if self._link is not None and self._owner == os.getpid():
                self._link.close()
            self._link = None

    def _check_guest(self, job: Job) -> None:
        if isinstance(job, GuestJob) and job.guest not in {
            name for name, _, _ in self._setup.guests
        }:
            raise ValueError(f"no guest '{job.guest}' was given to open_sandbox.")

    def _check_processes(self, link: ZygoteLink, job: Job) -> None:
        """Commands start processes, so something has to count them."""
        if isinstance(job, CommandJob) and "processes" not in {*link.used, *self._allow_weaker}:
            raise SandboxUnavailable(
                "commands (compilers, compiled programs) need a limit on processes, and nothing "
                f"counts them here: {link.refused['processes']}. Run as an ordinary user, or where "
                'namespaces can be made, or accept it by name: allow_weaker = ["processes"].'
            )

    def _start(self, get_link: Callable[[], ZygoteLink], job: Job) -> Running | Reply:
        """Order a job; once more from a new zygote if the first is gone."""
        self._check_guest(job)
        for _ in range(2):
            link = get_link()
            self._check_processes(link, job)
            try:
                return Running(job, link.order)
            except OSError as error:
                detail = str(error)
                if link.is_alive:
                    break
                self._discard(link)
        return Reply(Status.ERROR, detail=f"the job could not be started: {detail}")

    def _finish(self, running: Running) -> Reply:
        reply = running.finish()
        if running.is_abandoned and self._link is not None:
            self._discard(self._link)
        return reply

    def _discard(self, link: ZygoteLink) -> None:
        with self._lock:
            if self._link is link:
                link.close()
                self._link = None

    def _ready(self) -> ZygoteLink:
        with self._lock:
            if self._owner != os.getpid():
                self._link, self._owner = None, os.getpid()
            if self._link is not None and not self._link.is_alive:
                self._discard(self._link)
            if self._link is None:
                link = ZygoteLink(self._setup, self._wrapper)
                try:
                    self._proof = self._prove(self, link)
                except BaseException:
                    link.close()
                    raise
                self._link = link
            return self._link


class RunningGuest:
    """See `api.Guest`."""

    def __init__(self, running: Running, finish: Callable[[Running], Reply]) -> None:
        self._running = running
        self._finish = finish
        self._reply: Reply | None = None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill what still runs, without waiting for its end."""
        if self._reply is None:
            self._reply = self._running.abandon()

    @property
    def is_over(self) -> bool:
        """Whether no further frame will come."""
        return self._running.is_over

    def send(self, frame: bytes) -> bool:
        """Give the guest a frame; False if it takes no more."""
        return self._running.send(frame)

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The guest's next frame; None if there is none in time, or will be none."""
        return self._running.receive(timeout)

    def kill(self) -> None:
        """End it at once."""
        self._running.kill()

    def close(self) -> Reply:
        """Close the channel, wait until the guest ends, and say how it did."""
        if self._reply is None:
            self._reply = self._finish(self._running)
        return self._reply


def make_setup(
    *,
    guests: Mapping[str, Path],
    preload: Sequence[str],
    without: Sequence[str] = (),
    wrapped: Sequence[str] = (),
    landlock_abi: int = 7,
    disk_mb: int = 256,
    total_memory_mb: int = 4096,
    total_processes: int = 1024,
) -> Setup:
    """What a zygote is told.

    Raises:
        VerifierError: if a package to preload is not installed.
        OSError: if a guest's file cannot be read.
    """
    modules = {"grpo_sandbox_probes": Path(__file__).parent / "inside" / "probes.py", **guests}
    return Setup(
        number=os.getpid(),
        without=tuple(without),
        guests=tuple((name, str(path), path.read_text()) for name, path in modules.items()),
        preload=tuple(preload),
        path=tuple(sys.path) if preload else (),
        roots=reading.readable(preload),
        hidden=reading.package_folders(),
        landlock_abi=landlock_abi,
        wrapped=tuple(wrapped),
        folder=os.path.realpath(tempfile.gettempdir()),
        disk_mb=disk_mb,
        total_memory_mb=total_memory_mb,
        total_processes=total_processes,
        cgroup=os.environ.get("GRPO_SANDBOX_CGROUP", ""),
    )
