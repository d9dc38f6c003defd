"""Carries messages between the candidate's process and the tests' process, and keeps the record.

Neither side can reach the other but through here. One of them has the word at any time; what the
other one sends meanwhile is a broken protocol. Messages are taken apart and made anew of the fields
that are known, their values checked by `codec`, so that what arrives at the tests' process is
exactly what any candidate could state. A candidate that ends, hangs or breaks the protocol has
failed, whatever the tests make of it.
"""

from __future__ import annotations

import ast
import secrets
import time
from hashlib import sha256
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.code.assembly import Program
from grpo_verifiers.code.calls import candidate_order, load_problem
from grpo_verifiers.code.guest import codec
from grpo_verifiers.code.guests import CANDIDATE, REFEREE
from grpo_verifiers.code.library_names import library_names
from grpo_verifiers.code.naming import class_names, free_names
from grpo_verifiers.code.problems import Problem
from grpo_verifiers.code.results import Report, TestResult, not_run
from grpo_verifiers.code.session import Lost, Session, check_raise
from grpo_verifiers.code.settings import CodeOptions
from grpo_verifiers.sandbox import GuestJob, Limits, Sandbox, SandboxUnavailable

MAX_CASES = 10_000
_REQUESTS = ("call", "getattr", "setattr", "op")
_REFEREE_MB = 512


class BrokenTests(VerifierError):
    """The tests themselves cannot be run."""


def run_tests(
    sandbox: Sandbox, program: Program, problem: Problem, context: str, options: CodeOptions,
    seed: int,
) -> Report:  # fmt: skip
    """Whether a program passes tests that are run in a process of their own.

    Args:
        sandbox: for both processes.
        program: the candidate's.
        problem: with the tests.
        context: imports and helpers that the prompt gives to the tests, too.
        options: limits.
        seed: of `random` in the candidate's process; the tests' one is none it can know.

    Raises:
        BrokenTests, SandboxFailure, SandboxUnavailable: if that cannot be found out.
    """
    if GuestJob not in sandbox.job_types:
        raise SandboxUnavailable(
            f"these tests need two processes that talk with each other, and the sandbox backend "
            f"'{sandbox.name}' has none. Give cases or plain asserts, or use the backend zygote."
        )
    seconds = options.total_timeout
    order = candidate_order(program, seed, serve=True)
    candidate = Session(sandbox, CANDIDATE, order, options.limits(seconds), options.timeout)
    tests = _tests_order(problem, context, options, seed)
    limits = Limits(wall_seconds=seconds, memory_mb=_REFEREE_MB)
    with candidate:
        trouble = load_problem(candidate)
        if trouble:
            return Report([], trouble, candidate.stderr)
        with Session(sandbox, REFEREE, tests, limits, seconds) as referee:
            return _Relay(candidate, referee).run()


class _Relay:
    def __init__(self, candidate: Session, referee: Session) -> None:
        self._candidate = candidate
        self._referee = referee
        self._results: list[TestResult] = []
        self._referee_handles: set[int] = set()
        self._planned = 0
        self._has_answered = False
        self._started = time.monotonic()

    def run(self) -> Report:
        """Carry messages until the tests have ended or the candidate has failed."""
        try:
            while True:
                try:
                    message = self._referee.receive()
                except Lost as lost:
                    return self._referee_lost(lost)
                if "done" in message:
                    if not self._results:
                        raise BrokenTests("the tests cannot be used: they assert nothing")
                    return self._report()
                if "broken" in message:
                    raise BrokenTests(f"the tests cannot be run: {message['broken']}")
                if not self._noted(message):
                    self._referee.send(self._asked(message))
        except Lost as lost:
            name = f"test {len(self._results) + 1}"
            self._results.append(TestResult.of(name, f"the program {lost}"))
            return self._report()

    def _referee_lost(self, lost: Lost) -> Report:
        """The tests did not end. Before any answer that is their fault, later the candidate's."""
        if not self._has_answered:
            raise BrokenTests(f"the tests cannot be run: their process {lost}")
        problem = f"the tests {lost} on what the program returned"
        self._results.append(TestResult.of(f"test {len(self._results) + 1}", problem))
        return self._report()

    def _report(self) -> Report:
        """The results; after a failure, with those tests that were not run."""
        results = self._results
        if any(result.status == "failed" for result in results):
            numbers = range(len(results) + 1, min(self._planned, MAX_CASES) + 1)
            results = results + not_run([f"test {number}" for number in numbers])
        return Report(results, stderr=self._candidate.stderr)

    def _noted(self, message: dict[str, Any]) -> bool:
        """Take in what the tests report; False if it is something else."""
        if "planned" in message:
            self._planned = message["planned"]
            return True
        if "case" not in message:
            return False
        if len(self._results) >= MAX_CASES:
            raise BrokenTests(f"more than {MAX_CASES} tests")
        now = time.monotonic()
        problem = "" if message["ok"] is True else message["why"] or "it failed"
        self._results.append(TestResult.of(message["name"], problem, now - self._started))
        self._started = now
        return True

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """Have the candidate do what the tests ask; what it asks in turn, the tests answer.

        Raises:
            Lost: if the candidate fails.
        """
        number = secrets.token_hex(8)
        self._learn_handles(request["args"])
        self._learn_handles(request["keywords"])
        self._candidate.send({**request, "id": number})
        ends = time.monotonic() + self._candidate.timeout  # calls of the tests' things included
        while True:
            message = self._candidate.receive(ends - time.monotonic())
            if message.get("do") in _REQUESTS:
                self._candidate.send(self._called_back(message))
                continue
            if message.get("re") != number:
                raise Lost("broke the protocol: an answer to no question")
            self._has_answered = True
            return {"re": request["id"], **self._checked_answer(message)}

    def _called_back(self, message: dict[str, Any]) -> dict[str, Any]:
        """Have the tests answer a call of something that they passed to the candidate."""
        request = self._checked_request(message)
        self._has_answered = True
        number = secrets.token_hex(8)
        self._referee.send({**request, "id": number})
        while True:
            reply = self._referee.receive()
            if reply.get("re") == number:
                self._learn_handles(reply.get("value"))
                return {**reply, "re": message["id"]}
            if not self._noted(reply):
                self._referee.send(self._asked(reply))

    def _checked_request(self, message: dict[str, Any]) -> dict[str, Any]:
        fields = {key: message.get(key) for key in ("do", "target", "name", "args", "keywords")}
        shapes = (type(message.get("id")), type(fields["target"]), type(fields["name"]))
        if shapes != (int, int, str) or len(str(fields["name"])) > 200:
            raise Lost("broke the protocol: a request without a shape")
        if fields["do"] != "op" and fields["target"] not in self._referee_handles:
            raise Lost("broke the protocol: a handle that was never given")
        self._check_value(fields["args"], list)
        self._check_value(fields["keywords"], dict)
        items = [item for item in fields["args"] or () if type(item) is dict]
        if fields["do"] == "op" and not any(item.get("of") == "referee" for item in items):
            raise Lost("broke the protocol: an operation on nothing of the tests")
        return fields

    def _checked_answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The known fields of an answer, every value checked."""
        answer: dict[str, Any] = {}
        if "value" in message:
            self._check_value(message["value"])
            answer["value"] = message["value"]
        elif "raise" in message:
            answer["raise"] = check_raise(message["raise"])
            self._check_value(message["raise"]["args"], list, handles=False)
        elif type(message.get("unreadable")) is str:
            answer["unreadable"] = message["unreadable"][:500]
        else:
            raise Lost("broke the protocol: an answer without content")
        if message.get("changed") is not None:
            self._check_value(message["changed"], list)
            answer["changed"] = message["changed"]
        if type(message.get("printed")) is str:
            answer["printed"] = message["printed"]
        return answer

    def _check_value(self, tree: Any, kind: type | None = None, *, handles: bool = True) -> None:
        """Raises Lost for what is not a packed value, or not of this kind."""
        try:
            # Reading may use the tree's own lists; a copy keeps what is passed on as it came.
            copy = codec.load(codec.dump(tree))
            value = codec.unpack(copy, self._check_handle if handles else None)
        except codec.CodecError as error:
            raise Lost(f"broke the protocol: {error}") from error
        if kind is not None and type(value) is not kind:
            raise Lost("broke the protocol: arguments that are no list")

    def _check_handle(self, tree: dict[str, Any]) -> Any:
        handle, side = tree.get("handle"), tree.get("of")
        if type(handle) is not int or side not in ("candidate", "referee"):
            raise codec.CodecError("a handle without a number")
        if side == "referee" and handle not in self._referee_handles:
            raise codec.CodecError("a handle that was never given")
        if not tree.keys() <= {"handle", "of", "kind", "bases", "can"}:
            raise codec.CodecError("a handle with odd fields")
        if tree.get("kind") not in (None, "class", "object", "exception"):
            raise codec.CodecError("a handle of no kind")
        can = tree.get("can", [])
        if type(can) is not list or len(can) > 100 or any(type(name) is not str for name in can):
            raise codec.CodecError("a handle that can do odd things")
        if tree.get("kind") == "exception" or "bases" in tree:
            check_raise({"bases": tree.get("bases"), "message": "", "args": [], "line": 0})
        return _Handle(handle)

    def _learn_handles(self, tree: Any) -> None:
        """Remember what the tests have given away."""
        waiting = [tree]
        while waiting:
            part = waiting.pop()
            if type(part) is list:
                waiting += part
            elif type(part) is dict:
                if part.get("of") == "referee":
                    self._referee_handles.add(part["handle"])
                waiting += part.values()


class _Handle:
    """Stands for an object while a message is checked."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __hash__(self) -> int:
        return hash(self._number)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Handle and other._number == self._number


def _tests_order(
    problem: Problem, context: str, options: CodeOptions, seed: int
) -> dict[str, object]:
    tree, helpers = ast.parse(problem.tests), ast.parse(context)
    entry_point = [problem.entry_point] if problem.entry_point else []
    library = library_names(tree, problem.entry_point)
    return {
        "tests": problem.tests,
        "context": context,
        "entry_point": problem.entry_point,
        "names": sorted({*free_names(tree) - library.keys(), *entry_point}),
        "library": library,
        "classes": sorted(class_names(tree, helpers)),
        "share": ["arguments"] * problem.in_place,
        "stop": not options.partial,
        "seed": int.from_bytes(sha256(f"{seed} {problem.tests}".encode()).digest()[:8]),
    }
