"""The worker processes: spawned, watched, killed at their deadline, and replaced."""

from __future__ import annotations

import itertools
import selectors
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from grpo_core.errors import VerifierError
from grpo_core.verification import isolation
from grpo_core.verification.calls import Call, Failure, VerifierCard, died, timed_out
from grpo_core.verification.launch import Setup, ZygoteClient
from grpo_core.verification.link import Answer, WorkerLink

_FORK_LIMIT = 30.0  # seconds for the zygote to report a fork
_KILL_LIMIT = 10.0  # ... and the end of a worker it was told to kill
_END_GRACE = 0.5  # seconds for a worker that closed its connection to end by itself
_CALM = 60.0  # seconds after a restart of the zygote before it may be restarted again
_MAX_STILLBORN = 10  # workers in a row that end without having been asked anything


class Employer(Protocol):
    """Who gives the crew its calls, and hears what became of them."""

    def answered(self, call: Call, answer: Answer) -> None:
        """A worker answered a call."""
        ...

    def failed(self, call: Call, failure: Failure, was_first: bool) -> Call | None:
        """A worker ended in a call, its first one or a later one.

        Returns a call that the fresh worker in its place gets at once, or None.
        """
        ...

    def returned(self, calls: Iterable[Call]) -> None:
        """A worker ended before it came to these calls."""
        ...


@dataclass(frozen=True, slots=True)
class Post:
    """How many workers have a role, and how much the address space of each may grow."""

    workers: int
    memory_mb: int


def _posts(cards: Iterable[VerifierCard], num_workers: int) -> Mapping[str, Post]:
    """The posts by role: `num_workers` shared ones, and one for each verifier that wants its own.

    Shared workers may take as much memory as the neediest of their verifiers.
    """
    posts: dict[str, Post] = {}
    for card in cards:
        if card.placement == "process":
            posts[card.role] = Post(1, card.memory_mb)
        elif card.placement == "workers":
            memory_mb = max(card.memory_mb, posts[""].memory_mb if "" in posts else 0)
            posts[""] = Post(num_workers, memory_mb)
    return posts


class Crew:
    """A fixed number of workers. Not thread-safe: one thread uses it.

    Attributes:
        kills: workers killed, at the deadline or because they broke the protocol.
        restarts: workers replaced.
        zygote_restarts: how often the zygote was replaced, and all workers with it.
    """

    def __init__(
        self,
        setup: Setup,
        num_workers: int,
        selector: selectors.BaseSelector,
        employer: Employer,
    ) -> None:
        """Start the zygote; raises as ZygoteClient does."""
        self.kills = self.restarts = self.zygote_restarts = 0
        self._setup = setup
        self._selector = selector
        self._employer = employer
        self._links: dict[int, WorkerLink] = {}
        self._numbers = itertools.count(1)
        self._stillborn = 0
        self._restarted_at = float("-inf")
        self._zygote = self._start_zygote()
        self.cards = self._zygote.cards
        self._posts = _posts(self.cards.values(), num_workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the zygote and of the workers that have started."""
        pids = [link.pid for link in list(self._links.values())]
        return [self._zygote.pid, *(pid for pid in pids if pid is not None)]

    def hire(self) -> None:
        """Spawn workers until there are as many as there should be."""
        filled = Counter(link.role for link in self._links.values())
        for role, post in self._posts.items():
            for _ in range(post.workers - filled[role]):
                if not self._spawn(role):
                    return

    def at_work(self) -> Iterator[WorkerLink]:
        """The workers that can be given calls."""
        return (link for link in list(self._links.values()) if not link.is_ending)

    def send(self, link: WorkerLink, calls: list[Call]) -> None:
        """Give a worker calls; it takes them one after the other."""
        link.send(calls)
        if link.pid is not None and link.started is None:
            link.started = time.monotonic()
        self._watch(link)

    def seconds_to_next_deadline(self) -> float | None:
        """How long nothing needs to be done unless something arrives; None: for ever."""
        times = [time for link in self._links.values() for time in self._times(link)]
        return max(min(times) - time.monotonic(), 0.0) if times else None

    def enforce_deadlines(self) -> None:
        """Kill workers that are past their deadline, and a zygote that does not do as told."""
        for link in list(self._links.values()):
            if not link.is_ending and link.seconds >= link.deadline:
                self.kills += 1
                self._end(link, timed_out(link.deadline, link.seconds))
            if link.overdue is not None and time.monotonic() >= link.overdue:
                link.overdue = None
                self._zygote.kill()

    def unanswered(self) -> list[Call]:
        """The calls that workers have been given."""
        return [call for link in self._links.values() for call in link.calls]

    def close(self) -> None:
        """End all processes."""
        for link in self._links.values():
            link.connection.close()
        self._zygote.close()

    def _times(self, link: WorkerLink) -> Iterator[float]:
        if link.started is not None and not link.is_ending:
            yield link.started + link.deadline
        if link.overdue is not None:
            yield link.overdue

    def _start_zygote(self) -> ZygoteClient:
        zygote = ZygoteClient(self._setup)
        self._selector.register(zygote.control, selectors.EVENT_READ, self._on_reports)
        return zygote

    def _spawn(self, role: str, first: Call | None = None) -> bool:
        """Order a worker, and give it a first call; False when the zygote is gone."""
        number = next(self._numbers)
        try:
            connection = self._zygote.spawn(number, role, self._posts[role].memory_mb)
        except OSError:
            self._zygote.kill()  # what follows from its end follows when we read of it
            self._employer.returned([first] if first else [])
            return False
        link = WorkerLink(number, role, connection, time.monotonic() + _FORK_LIMIT)
        self._links[number] = link
        self._selector.register(connection, selectors.EVENT_READ, partial(self._on_worker, link))
        if first:
            self.send(link, [first])
        return True

    def _watch(self, link: WorkerLink) -> None:
        """Wake up when a blocked worker reads, and only then."""
        write = selectors.EVENT_WRITE if link.is_blocked else 0
        key = self._selector.get_key(link.connection)
        if key.events != selectors.EVENT_READ | write:
            self._selector.modify(link.connection, selectors.EVENT_READ | write, key.data)

    def _on_worker(self, link: WorkerLink) -> None:
        if link.is_ending or link.number not in self._links:
            return
        if link.is_blocked:
            link.flush()
            self._watch(link)
        self._receive(link)
        if link.problem:
            self.kills += 1
            cause = f"confused its worker process, which sent {link.problem}"
            self._end(link, Failure(cause, seconds=link.seconds))
        elif link.is_closed:
            self._end(link, None, _END_GRACE)

    def _receive(self, link: WorkerLink) -> None:
        answers = link.receive()
        if answers:
            self._stillborn = 0
            link.started = time.monotonic() if link.calls else None
        for call, answer in answers:
            self._employer.answered(call, answer)

    def _end(self, link: WorkerLink, failure: Failure | None, grace: float = 0.0) -> None:
        """Have a worker killed; the rest happens when the zygote reports its end."""
        link.end(failure, time.monotonic() + grace + _KILL_LIMIT)
        self._selector.unregister(link.connection)
        try:
            self._zygote.kill_worker(link.number, grace)
        except OSError:
            self._zygote.kill()

    def _on_reports(self) -> None:
        reports, is_gone = self._zygote.reports()
        for report in reports:
            if "started" in report and (link := self._links.get(report["started"])):
                link.pid = report["pid"]
                if not link.is_ending:
                    link.overdue = None
                    link.started = time.monotonic() if link.calls else None
            elif "ended" in report and (link := self._links.pop(report["ended"], None)):
                memory_mb = self._posts[link.role].memory_mb
                self._bury(link, died(report["status"], report["forced"], memory_mb))
        if is_gone:
            self._replace_zygote()

    def _bury(self, link: WorkerLink, cause: Failure) -> None:
        """A worker has ended: blame the call it was in, and put another in its place."""
        seconds = link.seconds
        self._receive(link)  # it may have answered with its last breath
        self._close(link)
        failure = link.failure or replace(cause, seconds=seconds)
        follow_up = None
        if link.calls and (link.failure is None or link.calls[0] is link.blamed):
            blamed = link.calls.popleft()
            follow_up = self._employer.failed(blamed, failure, link.answered == 0)
        elif link.answered == 0:
            self._stillborn += 1
            if self._stillborn > _MAX_STILLBORN:
                raise VerifierError(
                    f"{self._stillborn} worker processes for verifiers {self._setup.names} ended "
                    f"in a row before they were asked anything. The last one {failure.cause}."
                )
        self._employer.returned(link.calls)
        self.restarts += 1
        self._spawn(link.role, follow_up)

    def _close(self, link: WorkerLink) -> None:
        if not link.is_ending:
            self._selector.unregister(link.connection)
        link.connection.close()

    def _replace_zygote(self) -> None:
        """The zygote has ended, and so have all workers: start again, once.

        Raises:
            VerifierError: if that was tried a moment ago.
            GrpoError: if the plugins cannot be loaded any more.
        """
        self._selector.unregister(self._zygote.control)
        self._zygote.close()
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            if link.pid is not None:
                isolation.kill_group(link.pid)  # its children may have outlived it
            self._receive(link)
            self._close(link)
            if link.calls:
                failure = Failure(
                    "lost its worker: the process that all workers are forked from ended"
                )
                follow_up = self._employer.failed(link.calls.popleft(), failure, True)
                self._employer.returned([follow_up] if follow_up else [])
            self._employer.returned(link.calls)
        now = time.monotonic()
        if now - self._restarted_at < _CALM:
            raise VerifierError(
                "the process that verifier workers are forked from has ended twice within "
                f"{_CALM:g} s. It runs verifiers {self._setup.names}: does one of them kill "
                "processes, or is the machine out of memory? Their output is on stderr."
            )
        self._restarted_at = now
        self.zygote_restarts += 1
        self._zygote = self._start_zygote()
        self.hire()
