"""The zygote's working directories: which are free, which are in use, which are being emptied."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from . import kernel, places
from .confine import Place, Plan, prepare


class Yard:
    """Hands out places, and empties those that come back.

    A place is emptied by a process of its own: what a job has left there, be it only names, is not
    to be in the zygote's memory, which the next job inherits.
    """

    def __init__(self, plan: Plan, make_place: Callable[[int], Place], poll: select.epoll) -> None:
        """Begin without places.

        Args:
            plan: what they are prepared for.
            make_place: makes one by its number.
            poll: where cleaners are watched; their events go to `end_cleaner`.
        """
        self._plan = plan
        self._make_place = make_place
        self._poll = poll
        self._free: list[Place] = []
        self._num_places = 0
        self._cleaners: dict[int, tuple[int, Place]] = {}  # by pidfd

    @property
    def cleaners(self) -> set[int]:
        """Process ids of those that empty places."""
        return {pid for pid, _ in self._cleaners.values()}

    def take(self, profile: str) -> Place:
        """A place that is ready for a job.

        Raises:
            OSError: if there are too many jobs, or the kernel refuses.
        """
        if self._free:
            place = self._free.pop()
        elif self._num_places >= places.MAX_PLACES:
            raise OSError(0, f"{places.MAX_PLACES} jobs are under way, which is the most")
        else:
            self._num_places += 1
            place = self._make_place(self._num_places - 1)
        prepare(self._plan, place, profile)
        return place

    def put_back(self, place: Place) -> None:
        """Take back a place in which no process is any more."""
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
        self._poll.register(handle, select.EPOLLIN)

    def is_cleaner(self, handle: int) -> bool:
        """Whether a pidfd is that of a process that empties a place."""
        return handle in self._cleaners

    def end_cleaner(self, handle: int) -> None:
        """Use a place again, unless it could not be emptied."""
        pid, place = self._cleaners.pop(handle)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(handle)
        os.close(handle)
        if status == 0:
            self._free.append(place)
        else:
            print(f"grpo sandbox: {place.path} could not be emptied", file=sys.stderr)
