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
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from . import kernel, places, wire
from .child import run_command
from .command import kill_children
from .confine import Place, Plan
from .spares import Spares, last_words
from .yard import Yard

_TICK = 60.0  # seconds; there is nothing to look at meanwhile


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
    orders: socket.socket | None  # on which a spare says that it has taken the job
    cause: str = ""  # why we killed it


class Zygote:
    """Serves orders until its caller is gone."""

    def __init__(
        self,
        control: socket.socket,
        caller: int,
        plan: Plan,
        guests: Mapping[str, ModuleType],
        make_place: Callable[[int], Place],
    ) -> None:
        """Take note of what to do.

        Args:
            control: where orders come from.
            caller: a pidfd of the process that sends them, or -1.
            plan: by which jobs are confined.
            guests: modules that they may call.
            make_place: makes a working directory by its number.
        """
        self._control = control
        self._caller = caller
        self._plan = plan
        self._poll = select.epoll()
        self._yard = Yard(plan, make_place, self._poll)
        self._spares = Spares(plan, guests, self._yard, self._poll)
        self._jobs: dict[int, Running] = {}  # by pidfd, and by report socket

    def serve(self) -> None:
        """Run until the caller is gone, then kill all jobs."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1, what="subreaper")
        self._watch(self._control.fileno())
        if self._caller >= 0:
            self._watch(self._caller)
        self._spares.replenish()
        while True:
            ready = [file for file, _ in self._poll.poll(self._wait())]
            for file in ready:
                self._handle(file)
            self._enforce()
            # Last, for a new job's descriptors may have the numbers of one that has just ended.
            if self._caller in ready or (self._control.fileno() in ready and not self._accept()):
                self._end_all()
                return

    def _watch(self, file: int) -> None:
        self._poll.register(file, select.EPOLLIN)

    def _wait(self) -> float:
        due = min((job.due for job in self._jobs.values()), default=float("inf"))
        return min(max(0.0, due - time.monotonic()), _TICK)

    def _accept(self) -> bool:
        """Take an order; False when the caller has closed the connection."""
        message, files, _, _ = socket.recv_fds(self._control, wire.MAX_ORDER, 8)
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
        self._spares.replenish()
        return True

    def _launch(self, message: bytes, files: list[int], report: socket.socket) -> None:
        order = wire.decode_order(message)
        orders: socket.socket | None = None
        if order.profile == "command":
            place = self._yard.take("command")
            own = os.getpid()
            pid = kernel.fork()
            if pid == 0:
                report.detach()
                run_command(self._plan, place, order, files, own)
            handle = os.pidfd_open(pid)
            self._watch(handle)
        else:
            spare = self._spares.hand_over(message, files)
            pid, handle, place = spare.pid, spare.handle, spare.place
            orders = spare.orders
        now = time.monotonic()
        due = now + order.wall_seconds
        job = Running(pid, handle, report, place, order, now, due, orders)
        self._jobs[handle] = self._jobs[report.fileno()] = job
        self._watch(report.fileno())

    def _handle(self, file: int) -> None:
        if self._yard.is_cleaner(file):
            self._yard.end_cleaner(file)
        elif self._spares.is_one(file):
            failure = self._spares.end(file)
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
        if (job.order.profile == "command" and not self._plan.nests) or not self._plan.machine:
            kill_children(self._known())  # nothing else keeps jobs from leaving processes behind
        seconds = time.monotonic() - job.started
        report = {
            "status": status,
            "cause": job.cause,
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_mb": usage.ru_maxrss / 1024,
        }
        if job.orders is not None and not last_words(job.orders) and not job.cause:
            report["failed"] = "its process was killed before the job began"
        fetched = {name: places.open_result(job.place.path, name) for name in job.order.fetch}
        files = {name: file for name, file in fetched.items() if file is not None}
        for file in (job.handle, job.report.fileno()):
            if self._jobs.pop(file, None) is not None:
                self._poll.unregister(file)
        os.close(job.handle)
        self._yard.put_back(job.place)
        message = wire.encode_report(report | {"files": list(files)})
        with contextlib.suppress(OSError):  # a caller that does not want to know any more
            socket.send_fds(job.report, [message], list(files.values()))
        job.report.close()
        for file in files.values():
            os.close(file)

    def _known(self) -> frozenset[int]:
        jobs = {job.pid for job in self._jobs.values()}
        return frozenset(jobs | self._spares.pids | self._yard.cleaners)

    def _end_all(self) -> None:
        for job in {job.pid: job for job in self._jobs.values()}.values():
            self._kill(job, "the end")
            os.waitpid(job.pid, 0)
        kill_children()


def quit_now(code: int) -> NoReturn:
    """End without running anything that forked copies might run, too."""
    os._exit(code)
