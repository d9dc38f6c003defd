"""What the pool asks of workers, and the verdicts that failures turn into."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from grpo_core.types import Json, Status, Verdict
from grpo_core.verification.worker import EXIT_CONNECTION, EXIT_CRASH, EXIT_MEMORY

Kind = Literal["verify", "check"]
Placement = Literal["workers", "process", "trainer"]

# What a signal may mean. GMP and C++ abort when the memory limit denies them an allocation; the
# out-of-memory killer comes for the whole machine's memory, which is not the candidate's to answer
# for.
_HINTS: dict[int, str] = {
    signal.SIGABRT: ", perhaps for want of memory (limit {memory_mb} MB)",
    signal.SIGKILL: ", perhaps because the machine is out of memory",
}


@dataclass(frozen=True, slots=True)
class VerifierCard:
    """What the trainer knows of a verifier; the verifier itself lives in the workers only.

    Attributes:
        deadline: seconds for one call.
        memory_mb: how much the address space of its process may grow.
        reads: the large fields of a sample that it looks at.
    """

    name: str
    version: str
    plugin: str
    placement: Placement
    batch_size: int
    deadline: float
    memory_mb: int
    reads: tuple[str, ...]
    candidate_bears_limits: bool
    checks_references: bool

    @property
    def role(self) -> str:
        """Which workers can serve it: its own one, named after it, or the shared ones, ""."""
        return "" if self.placement == "workers" else self.name

    def __str__(self) -> str:
        return f"verifier '{self.name}' of plugin '{self.plugin}'"


@dataclass(slots=True, eq=False)
class Job:
    """One sample that waits for its verdict, or one reference that waits to be checked.

    Attributes:
        item: the sample or the reference as JSON.
        future: gets a Verdict, or for a check None or the message.
        order: when it came.
    """

    kind: Kind
    card: VerifierCard
    item: str
    future: Future[Any] = field(default_factory=Future)
    order: int = 0
    is_running: bool = False

    def start(self) -> bool:
        """False when the future was cancelled and the job can be dropped."""
        if not self.is_running:
            self.is_running = self.future.set_running_or_notify_cancel()
        return self.is_running

    def finish(self, result: Verdict | str | None) -> None:
        """Hand over the result; nobody may be waiting any more."""
        if self.start():
            self.future.set_result(result)


@dataclass(frozen=True, slots=True)
class Call:
    """What a worker is asked at once: jobs of one kind for one verifier."""

    id: int
    jobs: list[Job]

    @property
    def kind(self) -> Kind:
        """Verify samples, or check references."""
        return self.jobs[0].kind

    @property
    def card(self) -> VerifierCard:
        """Who is asked."""
        return self.jobs[0].card

    @property
    def text(self) -> str:
        """The message to the worker."""
        items = ",".join(job.item for job in self.jobs)
        name = json.dumps(self.card.name)
        return f'{{"id":{self.id},"kind":"{self.kind}","verifier":{name},"items":[{items}]}}'


def reference_of(job: Job) -> str:
    """The reference of a sample, as JSON."""
    return json.dumps(json.loads(job.item)[2])


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no answer.

    Attributes:
        cause: completes the sentence "verifier 'x' of plugin 'y' ...".
        limit: set when the call ran into a limit; "2 s" or "512 MB of memory".
        is_memory: the limit was memory.
        seconds: how long it took.
    """

    cause: str
    status: Status = Status.ERROR
    limit: str = ""
    is_memory: bool = False
    details: Mapping[str, Json] = field(default_factory=dict)
    seconds: float = 0.0

    def reason(self, card: VerifierCard) -> str:
        """The sentence for people: plugin and cause."""
        return f"{card} {self.cause}"

    def verdict(self, card: VerifierCard) -> Verdict:
        """The typed verdict: the verifier failed, the candidate did not."""
        return Verdict(
            self.status,
            None,
            self.reason(card),
            self.details,
            self.seconds,
            card.name,
            card.version,
        )


def timed_out(deadline: float, seconds: float) -> Failure:
    """The worker was killed at the deadline."""
    cause = f"did not answer within {deadline:g} s and was killed"
    return Failure(cause, Status.TIMEOUT, f"{deadline:g} s", seconds=seconds)


def died(wait_status: int, forced: bool, memory_mb: int) -> Failure:
    """The worker's process ended during the call.

    Args:
        wait_status: as os.waitpid returns it.
        forced: the worker had closed its connection, and was killed for that.
        memory_mb: its limit.
    """
    memory = f"{memory_mb} MB of memory"
    code = os.waitstatus_to_exitcode(wait_status)
    if code == EXIT_MEMORY:
        cause = f"ran out of memory (limit {memory_mb} MB)"
        return Failure(cause, limit=memory, is_memory=True, details={"memory_mb": memory_mb})
    if forced or code == EXIT_CONNECTION:
        return Failure("closed its connection to the trainer")
    if code == EXIT_CRASH:
        return Failure("broke its worker process; what happened is on stderr")
    if code >= 0:
        return Failure(f"ended its worker process (exit code {code})", details={"exit_code": code})
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = _HINTS.get(-code, "").format(memory_mb=memory_mb)
    cause = f"crashed: its worker process was killed by {name}{hint}"
    is_memory = -code == signal.SIGABRT
    limit = memory if is_memory else ""
    return Failure(cause, limit=limit, is_memory=is_memory, details={"signal": name})


def borne_by_candidate(card: VerifierCard, failure: Failure) -> Verdict:
    """The verdict when the completion, not the verifier, is to blame for a limit."""
    return Verdict(
        Status.WRONG,
        0.0,
        f"the answer could not be evaluated within {failure.limit}",
        {**failure.details, "limit": failure.limit},
        failure.seconds,
        card.name,
        card.version,
    )


def borne_by_reference(card: VerifierCard, failure: Failure, message: str) -> Verdict:
    """The verdict when the reference fails, too, so that the completion is not to blame."""
    reason = f"{failure.reason(card)}; its reference cannot be used either: {message}"
    return replace(failure.verdict(card), reason=reason)
