"""The zygote: a warm interpreter that forks a child for every job, and sees to its end.

It knows limits and names, never code: that lies in a memory file which only the child reads. Wall
time is kept here. A caller that closes its end of a job's report socket ends the job. Children for
Python jobs are forked and confined beforehand, and wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import NoReturn

from . import kernel, places, wire
from .child import run_command, run_spare
from .command import kill_children
from .confine import Place, Plan, prepare

_TICK = 60.0  # seconds; there is nothing to look at meanwhile
_SPARES = 2  # children that wait for jobs: a candidate's and its referee's


@dataclass(slots=True)
class Running:
    """A job under way."""

    pid: int
    handle: int  # a pidfd
    report: socket.socket
    place: Place
    order: wire.Order
    started: float
    due: float
    cause: str = ""  # why we killed it


@dataclass(frozen=True, slots=True)
class Spare:
    """A confined child that waits for a job, at the other end of `orders`."""

    pid: int
    handle: int  # a pidfd
    orders: socket.socket
    place: Place


@dataclass(slots=True)
class Zygote:
    """Serves orders until its caller is gone.

    Attributes:
        caller: a pidfd of the process that ordered us, or -1.
        make_place: makes a working directory by its number.
        may_fork: whether jobs might have left processes behind, whatever their profile.
    """

    control: socket.socket
    caller: int
    plan: Plan
    guests: Mapping[str, ModuleType]
    make_place: Callable[[int], Place]
    may_fork: bool
    _free: list[Place] = field(default_factory=list)
    _num_places: int = 0
    _jobs: dict[int, Running] = field(default_factory=dict)  # by pidfd, and by report socket
    _spares: dict[int, Spare] = field(default_factory=dict)  # by pidfd, oldest first
    _cleaners: dict[int, tuple[int, Place]] = field(default_factory=dict)  # by pidfd
    _poll: select.epoll = field(default_factory=select.epoll)

    def serve(self) -> None:
        """Run until the caller is gone, then kill all jobs."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1, what="subreaper")
        self._watch(self.control.fileno())
        if self.caller >= 0:
            self._watch(self.caller)
        self._replenish()
        while True:
            ready = [file for file, _ in self._poll.poll(self._wait())]
            for file in ready:
                self._handle(file)
            self._enforce()
            # Last, for a new job's descriptors may have the numbers of one that has just ended.
            if self.caller in ready or (self.control.fileno() in ready and not self._accept()):
                self._end_all()
                return

    def _watch(self, file: int) -> None:
        self._poll.register(file, select.EPOLLIN)

    def _wait(self) -> float:
        due = min((job.due for job in self._jobs.values()), default=float("inf"))
        return min(max(0.0, due - time.monotonic()), _TICK)

    def _accept(self) -> bool:
        """Take an order; False when the caller has closed the connection."""
        message, files, _, _ = socket.recv_fds(self.control, wire.MAX_ORDER, 8)
        if not message:
            return False
        report = socket.socket(fileno=os.dup(files[wire.DESCRIPTORS.index("report")]))
        try:
            self._launch(message, files, report)
        except OSError as error:
            with contextlib.suppress(OSError):
                report.send(wire.encode_report({"failed": f"the zygote: {error}"}))
            report.close()
        finally:
            for file in files:
                os.close(file)
        self._replenish()
        return True

    def _launch(self, message: bytes, files: list[int], report: socket.socket) -> None:
        order = wire.decode_order(message)
        if order.profile == "command":
            place = self._take_place("command")
            own = os.getpid()
            pid = kernel.fork()
            if pid == 0:
                report.detach()
                run_command(self.plan, place, order, files, own)
            handle = os.pidfd_open(pid)
            self._watch(handle)
        else:
            spare = self._hand_over(message, files)
            pid, handle, place = spare.pid, spare.handle, spare.place
        now = time.monotonic()
        due = now + order.wall_seconds
        job = Running(pid, handle, report, place, order, now, due)
        self._jobs[handle] = self._jobs[report.fileno()] = job
        self._watch(report.fileno())

    def _hand_over(self, message: bytes, files: list[int]) -> Spare:
        """Give a job to a spare; the one that takes it.

        Raises:
            OSError: if spares cannot be made, or end at once.
        """
        failure = "jobs end before they start"
        for _ in range(_SPARES + 1):
            if not self._spares:
                self._make_spare()
            spare = self._spares.pop(next(iter(self._spares)))
            try:
                socket.send_fds(spare.orders, [message], files)
                spare.orders.close()
                return spare
            except OSError:  # it has ended, and said why
                failure = self._bury(spare) or failure
        raise OSError(0, failure)

    def _replenish(self) -> None:
        """Have spares for the next orders."""
        with contextlib.suppress(OSError):  # said to the next order that needs one
            while len(self._spares) < _SPARES:
                self._make_spare()

    def _make_spare(self) -> None:
        place = self._take_place("python")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.environ["HOME"] = os.environ["TMPDIR"] = place.path
        own = os.getpid()
        try:
            pid = kernel.fork()
        except OSError:
            self._free.append(place)
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.detach()
            run_spare(self.plan, place, self.guests, theirs, own)
        theirs.close()
        handle = os.pidfd_open(pid)
        self._spares[handle] = Spare(pid, handle, ours, place)
        self._watch(handle)

    def _bury(self, spare: Spare) -> str:
        """Reap a spare that ended without a job; what it said."""
        os.kill(spare.pid, signal.SIGKILL)
        os.waitpid(spare.pid, 0)
        self._poll.unregister(spare.handle)
        os.close(spare.handle)
        self._clear(spare.place)
        spare.orders.setblocking(False)
        try:
            report = spare.orders.recv(wire.MAX_ORDER)
        except OSError:
            report = b""
        spare.orders.close()
        return report.decode()

    def _take_place(self, profile: str) -> Place:
        if self._free:
            place = self._free.pop()
        elif self._num_places >= places.MAX_PLACES:
            raise OSError(0, f"{places.MAX_PLACES} jobs are under way, which is the most")
        else:
            self._num_places += 1
            place = self.make_place(self._num_places - 1)
        prepare(self.plan, place, profile)
        return place

    def _handle(self, file: int) -> None:
        if file in self._cleaners:
            self._end_cleaner(file)
        elif file in self._spares:
            failure = self._bury(self._spares.pop(file))
            print(f"grpo sandbox: a spare process ended: {failure}", file=sys.stderr)
        job = self._jobs.get(file)
        if job is None:
            return
        if file == job.handle:
            self._finish(job)
        else:  # the caller has closed its end, or wants this job gone
            self._kill(job, "killed by its caller")
            self._poll.unregister(file)
            del self._jobs[file]

    def _enforce(self) -> None:
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if now >= job.due:
                self._kill(job, "wall")

    def _kill(self, job: Running, cause: str) -> None:
        job.cause = job.cause or cause
        job.due = float("inf")
        signal.pidfd_send_signal(job.handle, signal.SIGKILL)

    def _finish(self, job: Running) -> None:
        """Reap a job, hand out its files, report, and clear its place."""
        _, status, usage = os.wait4(job.pid, 0)
        if self.may_fork or (job.order.profile == "command" and not self.plan.nests):
            kill_children(self._known())
        seconds = time.monotonic() - job.started
        report = {
            "status": status,
            "cause": job.cause,
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_mb": usage.ru_maxrss / 1024,
        }
        fetched = {name: places.open_result(job.place.path, name) for name in job.order.fetch}
        files = {name: file for name, file in fetched.items() if file is not None}
        for file in (job.handle, job.report.fileno()):
            if self._jobs.pop(file, None) is not None:
                self._poll.unregister(file)
        os.close(job.handle)
        self._clear(job.place)
        message = wire.encode_report(report | {"files": list(files)})
        with contextlib.suppress(OSError):  # a caller that does not want to know any more
            socket.send_fds(job.report, [message], list(files.values()))
        job.report.close()
        for file in files.values():
            os.close(file)

    def _known(self) -> frozenset[int]:
        jobs = {job.pid for job in self._jobs.values()}
        spares = {spare.pid for spare in self._spares.values()}
        return frozenset(jobs | spares | {pid for pid, _ in self._cleaners.values()})

    def _clear(self, place: Place) -> None:
        """Empty a place, by a process of its own: its names are no business of the zygote."""
        if places.is_empty(place.path):
            self._free.append(place)
            return
        pid = kernel.fork()
        if pid == 0:
            try:
                places.empty(place.path)
                os._exit(0)
            finally:
                os._exit(1)
        handle = os.pidfd_open(pid)
        self._cleaners[handle] = (pid, place)
        self._watch(handle)

    def _end_cleaner(self, handle: int) -> None:
        """Use a place again, unless it could not be emptied."""
        pid, place = self._cleaners.pop(handle)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(handle)
        os.close(handle)
        if status == 0:
            self._free.append(place)
        else:
            print(f"grpo sandbox: {place.path} could not be emptied", file=sys.stderr)

    def _end_all(self) -> None:
        for job in {job.pid: job for job in self._jobs.values()}.values():
            self._kill(job, "the end")
            os.waitpid(job.pid, 0)
        kill_children()


def quit_now(code: int) -> NoReturn:
    """End without running anything that forked copies might run, too."""
    os._exit(code)
