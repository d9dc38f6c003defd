"""The jobs that wait for a worker."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator

from grpo_core.verification.calls import Job, Kind


class Backlog:
    """First come, first served; jobs that can share one call are taken together."""

    def __init__(self) -> None:
        self._orders = itertools.count()
        self._returned: deque[Job] = deque()
        self._waiting: dict[tuple[Kind, str], deque[Job]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, job: Job) -> None:
        """A new job goes to the end."""
        job.order = next(self._orders)
        self._waiting.setdefault((job.kind, job.card.name), deque()).append(job)
        self._size += 1

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Jobs that lost their worker go to the front, and are taken one at a time.

        So a sample that breaks the call it shares with others is found, and costs only itself.
        """
        back = list(jobs)
        self._returned.extendleft(reversed(back))
        self._size += len(back)

    def take(self, role: str) -> list[Job]:
        """The jobs of the next call for a worker of this role; none when none waits."""
        while taken := self._next(role):
            self._size -= len(taken)
            if jobs := [job for job in taken if job.start()]:
                return jobs
        return []

    def give_up(self, role: str) -> list[Job]:
        """Take the jobs of this role that were put back, without asking anybody about them."""
        given_up = [job for job in self._returned if job.card.role == role]
        self._returned = deque(job for job in self._returned if job.card.role != role)
        self._size -= len(given_up)
        return given_up

    def drain(self) -> Iterator[Job]:
        """All jobs, in no order; the backlog is empty afterwards."""
        jobs = [*self._returned, *itertools.chain.from_iterable(self._waiting.values())]
        self._returned.clear()
        self._waiting.clear()
        self._size = 0
        yield from jobs

    def _next(self, role: str) -> list[Job]:
        for job in self._returned:
            if job.card.role == role:
                self._returned.remove(job)
                return [job]
        queues = [queue for queue in self._waiting.values() if queue and queue[0].card.role == role]
        if not queues:
            return []
        queue = min(queues, key=lambda queue: queue[0].order)
        size = queue[0].card.batch_size if queue[0].kind == "verify" else 1
        return [queue.popleft() for _ in range(min(size, len(queue)))]
