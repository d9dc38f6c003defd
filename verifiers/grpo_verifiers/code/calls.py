"""Runs checks: all calls go into one process of the candidate, the comparison happens here.

All calls are sent at once and answered one by one. When the process is lost in a test, that test
has failed, and the ones after it get a fresh process, if they are wanted at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from grpo_verifiers.code.assembly import Program
from grpo_verifiers.code.checks import Check, Outcome
from grpo_verifiers.code.guests import CANDIDATE, CANDIDATE_GUESTS
from grpo_verifiers.code.results import Report, TestResult, not_run
from grpo_verifiers.code.scripted import ScriptedSession
from grpo_verifiers.code.session import Lost, Session, packed, read_outcome, tickets
from grpo_verifiers.code.settings import CodeOptions
from grpo_verifiers.sandbox import GuestJob, Sandbox


def run_checks(
    sandbox: Sandbox, program: Program, checks: Sequence[Check], options: CodeOptions, seed: int,
    *, stop_at_object: bool,
) -> Report:  # fmt: skip
    """Whether a program passes checks.

    Args:
        sandbox: where to run it.
        program: of the candidate.
        checks: all of them; at least one.
        options: limits, and whether a failure ends it.
        seed: of `random` in the candidate's process.
        stop_at_object: whether to end at a value that only the tests' own process could compare.

    Raises:
        SandboxFailure, SandboxUnavailable: if that cannot be found out.
    """
    ends = time.monotonic() + options.total_timeout
    results: list[TestResult] = []
    saw_object = False
    while len(results) < len(checks):
        left = ends - time.monotonic()
        if left <= 0:
            results.append(TestResult.of(checks[len(results)].name, "out of time for all tests"))
            break
        run = _Run(sandbox, program, checks[len(results) :], options, seed, left)
        results += run.results(stop_at_object=stop_at_object)
        if run.problem:
            return Report([*results, *_left_out(checks, results)], run.problem, run.stderr)
        saw_object = run.saw_object
        if saw_object or (results[-1].status == "failed" and not options.partial):
            break
    return Report([*results, *_left_out(checks, results)], saw_object=saw_object)


class _Run:
    """One process of the candidate.

    Attributes:
        problem: why the program could not be loaded.
        saw_object: whether a call returned what is no value; it ended the run.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        program: Program,
        checks: Sequence[Check],
        options: CodeOptions,
        seed: int,
        seconds: float,
    ) -> None:
        self._checks = checks
        self._partial = options.partial
        self._tickets = [tickets(check.calls) for check in checks]
        calls = [packed(ticket) for group in self._tickets for ticket in group]
        order = candidate_order(program, seed, calls=calls)
        self._session = _session(sandbox, order, options, seconds)
        self.problem = ""
        self.stderr = ""
        self.saw_object = False

    def results(self, *, stop_at_object: bool) -> list[TestResult]:
        """Results of the checks, up to one that lost the process, or failed and ends it all."""
        results: list[TestResult] = []
        with self._session as session:
            self.problem = load_problem(session)
            if self.problem:
                self.stderr = session.stderr
                return []
            for check, group in zip(self._checks, self._tickets, strict=True):
                started = time.monotonic()
                outcomes = list(self._outcomes(session, [ticket.number for ticket in group]))
                problem = check.problem(outcomes)
                seconds = time.monotonic() - started
                results.append(TestResult.of(check.name, problem, seconds))
                self.saw_object = stop_at_object and any(
                    outcome.kind == "object" for outcome in outcomes
                )
                is_lost = self.saw_object or any(outcome.kind == "lost" for outcome in outcomes)
                if is_lost or (problem and not self._partial):
                    break
        return results

    def _outcomes(
        self, session: Session | ScriptedSession, numbers: list[str]
    ) -> Iterator[Outcome]:
        problem = ""
        for number in numbers:
            if problem:
                yield Outcome("lost", problem=problem)
                continue
            started = time.monotonic()
            try:
                message = session.receive()
                yield read_outcome(message, number, time.monotonic() - started)
            except Lost as lost:
                problem = f"the program {lost}"
                yield Outcome("lost", problem=problem)


def _session(
    sandbox: Sandbox, order: dict[str, object], options: CodeOptions, seconds: float
) -> Session | ScriptedSession:
    """A process for calls: a guest, or a script where there are no guests."""
    if GuestJob in sandbox.job_types:
        return Session(sandbox, CANDIDATE, order, options.limits(seconds), options.timeout)
    limits = options.limits(min(seconds, options.timeout))
    return ScriptedSession(sandbox, CANDIDATE_GUESTS, order, limits)


def candidate_order(
    program: Program, seed: int, *, calls: Sequence[object] = (), serve: bool = False
) -> dict[str, object]:
    """The payload of the candidate's process."""
    return {
        "context": program.context,
        "code": program.code,
        "calls": list(calls),
        "serve": serve,
        "seed": seed,
    }


def load_problem(session: Session | ScriptedSession) -> str:
    """Why the program could not be loaded; empty if it was.

    Raises:
        SandboxFailure: if the sandbox is to blame.
    """
    try:
        outcome = read_outcome(session.receive(), "load", 0.0)
    except Lost as lost:
        return f"the program {lost} while it was loaded"
    if outcome.kind != "value":
        return f"the program cannot be loaded: {outcome.problem}"
    return ""


def _left_out(checks: Sequence[Check], results: Sequence[TestResult]) -> list[TestResult]:
    return not_run([check.name for check in checks[len(results) :]])
