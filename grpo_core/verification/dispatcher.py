"""The one thread of the trainer that talks to the workers, and decides what failures mean."""

from __future__ import annotations

import itertools
import selectors
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grpo_core.errors import GrpoError, VerifierError
from grpo_core.types import Status, Verdict
from grpo_core.verification.backlog import Backlog
from grpo_core.verification.calls import (
    Call,
    Failure,
    Job,
    borne_by_candidate,
    borne_by_reference,
    reference_of,
)
from grpo_core.verification.crew import Crew
from grpo_core.verification.launch import Setup
from grpo_core.verification.link import Answer

# Calls are sent ahead of time, so that a worker need not wait for the next one, only where calls
# are short and many: a call that waits behind a hanging one loses the time to the deadline.
_MAX_AHEAD = 16
_SHORT = 0.002  # seconds
_CLOSED = "the verifier pool is closed"
# A verifier with a process of its own that fails on this many samples in a row, each asked alone,
# is broken or hangs: the rest of the batch would wait for one deadline after the other.
_GIVE_UP = 3


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool has done so far.

    Attributes:
        counts: verdicts by verifier and status.
        seconds: sum of the verdicts' seconds by verifier.
        kills: workers killed, at the deadline or because they broke the protocol.
        restarts: workers replaced, for whatever reason.
        zygote_restarts: how often the process that workers are forked from was replaced.
    """

    counts: dict[str, dict[Status, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    kills: int = 0
    restarts: int = 0
    zygote_restarts: int = 0


class Dispatcher:
    """Hands jobs to workers and resolves every future, whatever happens.

    `submit`, `close`, and the properties may be used from any thread; the rest runs in its own.
    """

    def __init__(self, setup: Setup, num_workers: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._crew = Crew(setup, num_workers, self._selector, self)
        self.cards = self._crew.cards
        self._num_workers = num_workers
        self._counts = {name: dict.fromkeys(Status, 0) for name in self.cards}
        self._seconds = dict.fromkeys(self.cards, 0.0)
        self._mean_seconds = 1.0
        self._failures_in_a_row = dict.fromkeys(self.cards, 0)
        self._call_ids = itertools.count(1)
        self._backlog = Backlog()
        self._lock = threading.Lock()  # guards the next three
        self._inbox: list[Job] = []
        self._is_awake = False
        self._refusal = ""  # why no more jobs are taken
        self._alarm, self._alarm_sender = socket.socketpair()
        self._selector.register(self._alarm, selectors.EVENT_READ, self._on_alarm)
        self._thread = threading.Thread(target=self._run, name="grpo-verification", daemon=True)
        self._thread.start()

    @property
    def stats(self) -> PoolStats:
        """A copy of the counters."""
        crew = self._crew
        counts = {name: dict(counts) for name, counts in self._counts.items()}
        seconds = dict(self._seconds)
        return PoolStats(counts, seconds, crew.kills, crew.restarts, crew.zygote_restarts)

    @property
    def pids(self) -> list[int]:
        """Process ids of the zygote and of the workers."""
        return self._crew.pids

    def submit(self, job: Job) -> None:
        """Queue a job; its future will be resolved.

        Raises:
            VerifierError: if the pool is closed or has broken down.
        """
        with self._lock:
            if self._refusal:
                raise VerifierError(self._refusal)
            self._inbox.append(job)
            self._wake()

    def close(self) -> None:
        """Resolve what is pending, end all processes, and wait for that."""
        with self._lock:
            if not self._refusal:
                self._refusal = _CLOSED
                self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def answered(self, call: Call, answer: Answer) -> None:
        """Called by the crew: a worker answered."""
        if not call.card.role:
            self._mean_seconds += 0.1 * (answer.seconds - self._mean_seconds)
        if answer.failure is not None:
            self.failed(call, answer.failure, was_first=False)
        elif call.kind == "check":
            self._finish(call.jobs[0], None)
        else:
            self._failures_in_a_row[call.card.name] = 0
            for job, verdict in zip(call.jobs, answer.verdicts, strict=True):
                self._finish(job, verdict)

    def failed(self, call: Call, failure: Failure, was_first: bool) -> Call | None:
        """Called by the crew: a call has no answer. Returns what to ask a fresh worker, if any."""
        job = call.jobs[0]
        if len(call.jobs) > 1:
            self._backlog.put_back(call.jobs)
            return None
        if call.kind == "check":
            self._finish(job, failure.reason(job.card))
            return None
        self._failures_in_a_row[job.card.name] += 1
        if job.card.role and self._failures_in_a_row[job.card.name] >= _GIVE_UP:
            for other in self._backlog.give_up(job.card.role):
                self._finish(other, failure.verdict(job.card))
        if failure.is_memory and not was_first:
            return call  # earlier calls may have leaked: only a fresh worker tells
        if failure.limit and job.card.candidate_bears_limits:
            if not job.card.checks_references:
                self._finish(job, borne_by_candidate(job.card, failure))
                return None
            check = Job("check", job.card, reference_of(job))
            check.start()
            check.future.add_done_callback(partial(self._apportion, job, failure))
            return self._call([check])
        self._finish(job, failure.verdict(job.card))
        return None

    def returned(self, calls: Iterable[Call]) -> None:
        """Called by the crew: calls that no worker came to."""
        self._backlog.put_back(job for call in calls for job in call.jobs)

    def _run(self) -> None:
        try:
            self._crew.hire()
            while not self._refusal:
                self._assign()
                seconds = self._crew.seconds_to_next_deadline()
                for key, _ in self._selector.select(None if seconds is None else min(seconds, 60)):
                    key.data()
                self._crew.enforce_deadlines()
        except GrpoError as error:
            with self._lock:
                self._refusal = f"the verifier pool has broken down: {error}"
        finally:
            self._shut()

    def _shut(self) -> None:
        with self._lock:
            self._refusal = self._refusal or "the verifier pool has broken down; see stderr"
            inbox, self._inbox = self._inbox, []
        for job in inbox:
            self._backlog.add(job)
        self.returned(self._crew.unanswered())
        make = Verdict.abstain if self._refusal == _CLOSED else Verdict.error
        for job in self._backlog.drain():
            verdict = make(f"{job.card} did not judge: {self._refusal}")
            self._finish(job, verdict if job.kind == "verify" else self._refusal)
        self._crew.close()
        self._selector.close()
        self._alarm.close()
        self._alarm_sender.close()

    def _wake(self) -> None:
        """Have the thread look at the inbox; the lock is held."""
        if not self._is_awake:
            self._is_awake = True
            self._alarm_sender.send(b"!")

    def _on_alarm(self) -> None:
        self._alarm.recv(1)
        with self._lock:
            self._is_awake = False
            inbox, self._inbox = self._inbox, []
        for job in inbox:
            self._backlog.add(job)

    def _assign(self) -> None:
        ahead = 1
        if self._mean_seconds < _SHORT:
            ahead = min(_MAX_AHEAD, 1 + len(self._backlog) // (2 * self._num_workers))
        for link in self._crew.at_work():
            depth = 1 if link.role else ahead
            if len(link.calls) > depth // 2:
                continue
            calls = list(self._take(link.role, depth - len(link.calls)))
            if calls:
                self._crew.send(link, calls)

    def _take(self, role: str, count: int) -> Iterable[Call]:
        for _ in range(count):
            jobs = self._backlog.take(role)
            if not jobs:
                return
            yield self._call(jobs)

    def _call(self, jobs: list[Job]) -> Call:
        return Call(next(self._call_ids), jobs)

    def _apportion(self, job: Job, failure: Failure, check: Future[Any]) -> None:
        """A limit was reached: the completion's fault if the reference is fine, else not."""
        message = check.result()
        if message is None:
            self._finish(job, borne_by_candidate(job.card, failure))
        else:
            self._finish(job, borne_by_reference(job.card, failure, message))

    def _finish(self, job: Job, result: Verdict | str | None) -> None:
        if isinstance(result, Verdict):
            self._counts[job.card.name][result.status] += 1
            self._seconds[job.card.name] += result.seconds
        job.finish(result)
