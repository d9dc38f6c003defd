"""Spares: children that are forked and confined beforehand, and wait for Python jobs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from . import kernel, wire
from .child import run_spare
from .confine import Place, Plan
from .yard import Yard

# Several are made at once, because each fork makes every page that the zygote touches after it a
# page to be copied; and there is always one at least.
_MANY, _FEW = 4, 1


@dataclass(frozen=True, slots=True)
class Spare:
    """A confined child that waits for a job, at the other end of `orders`."""

    pid: int
    handle: int  # a pidfd
    orders: socket.socket
    place: Place


class Spares:
    """Keeps some in stock."""

    def __init__(
        self, plan: Plan, guests: Mapping[str, ModuleType], yard: Yard, poll: select.epoll
    ) -> None:
        """Begin without any.

        Args:
            plan: by which they are confined.
            guests: modules that jobs may call.
            yard: where they get their places.
            poll: where they are watched, also when they have become jobs.
        """
        self._plan = plan
        self._guests = guests
        self._yard = yard
        self._poll = poll
        self._stock: dict[int, Spare] = {}  # by pidfd, oldest first

    @property
    def pids(self) -> set[int]:
        """Process ids of those that wait."""
        return {spare.pid for spare in self._stock.values()}

    def is_one(self, handle: int) -> bool:
        """Whether a pidfd is that of a spare that waits."""
        return handle in self._stock

    def hand_over(self, message: bytes, files: list[int]) -> Spare:
        """Give a job to a spare; the one that takes it, which is a job from now on.

        Raises:
            OSError: if spares cannot be made, or end at once.
        """
        failure = "jobs end before they start"
        for _ in range(_MANY + 1):
            if not self._stock:
                self._make()
            spare = self._stock.pop(next(iter(self._stock)))
            try:
                socket.send_fds(spare.orders, [message], files)
                return spare
            except OSError:  # it has ended, and said why
                failure = self._bury(spare) or failure
        raise OSError(0, failure)

    def replenish(self) -> None:
        """Have some for the next orders."""
        if len(self._stock) > _FEW:
            return
        with contextlib.suppress(OSError):  # said to the next order that needs one
            while len(self._stock) < _MANY:
                self._make()

    def end(self, handle: int) -> str:
        """Put away one that ended without a job; what it said."""
        return self._bury(self._stock.pop(handle))

    def _make(self) -> None:
        place = self._yard.take("python")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        os.environ["HOME"] = os.environ["TMPDIR"] = place.path
        own = os.getpid()
        try:
            pid = kernel.fork()
        except OSError:
            self._yard.put_back(place)
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.detach()
            run_spare(self._plan, place, self._guests, theirs, own)
        theirs.close()
        handle = os.pidfd_open(pid)
        self._stock[handle] = Spare(pid, handle, ours, place)
        self._poll.register(handle, select.EPOLLIN)

    def _bury(self, spare: Spare) -> str:
        os.kill(spare.pid, signal.SIGKILL)
        os.waitpid(spare.pid, 0)
        self._poll.unregister(spare.handle)
        os.close(spare.handle)
        self._yard.put_back(spare.place)
        return last_words(spare.orders)


def last_words(connection: socket.socket) -> str:
    """What a process that has ended said on a connection, which is closed."""
    connection.setblocking(False)
    try:
        return connection.recv(wire.MAX_ORDER).decode()
    except OSError:
        return ""
    finally:
        connection.close()
