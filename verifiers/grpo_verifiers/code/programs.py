"""Runs programs: one process a test, which gets the input; its output is compared here."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from grpo_verifiers.code.cases import ProgramCase
from grpo_verifiers.code.checks import Check, Outcome
from grpo_verifiers.code.guest import codec
from grpo_verifiers.code.languages.base import CallingLanguage, Language
from grpo_verifiers.code.outputs import difference
from grpo_verifiers.code.results import Report, TestResult, not_run
from grpo_verifiers.code.session import how_it_ended
from grpo_verifiers.code.settings import CodeOptions
from grpo_verifiers.code.shown import excerpt, shorten
from grpo_verifiers.sandbox import Reply, Sandbox, Status

_MAX_LINE = 4_000_000  # of an answer to a call


class DoesNotCompile(Exception):
    """The compiler refuses the program; says why."""


def run_programs(
    sandbox: Sandbox, language: Language, source: str, cases: Sequence[ProgramCase],
    tolerance: float, options: CodeOptions,
) -> Report:  # fmt: skip
    """Whether a program writes what it should, case by case.

    Raises:
        SandboxFailure, SandboxUnavailable: if that cannot be found out.
    """
    names = [case.name for case in cases]
    try:
        built = build(sandbox, language, source, options)
    except DoesNotCompile as error:
        return Report(not_run(names), f"the program does not compile: {error}")
    ends = time.monotonic() + options.total_timeout
    results: list[TestResult] = []
    stderr = ""
    for case in cases:
        seconds = min(options.timeout, ends - time.monotonic())
        if seconds <= 0:
            results.append(TestResult.of(case.name, "out of time for all tests"))
            break
        limits = options.limits(seconds)
        job = language.run_job(source, built, case.stdin.encode("utf-8", "replace"), limits)
        reply = sandbox.run(job)
        problem = _problem(reply, case, tolerance)
        stderr = stderr or (excerpt(reply.stderr) if problem else "")
        results.append(TestResult.of(case.name, problem, reply.seconds))
        if problem and not options.partial:
            break
    return Report([*results, *not_run(names[len(results) :])], stderr=stderr)


def build(
    sandbox: Sandbox, language: Language, source: str, options: CodeOptions
) -> Mapping[str, bytes]:
    """What the compiler makes of a source; nothing for a language without one.

    Raises:
        DoesNotCompile: with the compiler's first error.
    """
    job = language.compile_job(source, options.compile_limits())
    if job is None:
        return {}
    reply = sandbox.run(job)
    if reply.status is Status.FINISHED and reply.exit_code == 0 and reply.files:
        return reply.files
    how = how_it_ended(reply)
    lines = excerpt(reply.stderr).splitlines()
    errors = [line for line in lines if "error" in line] or lines
    raise DoesNotCompile(shorten(errors[0]) if errors else f"the compiler {how}")


def _problem(reply: Reply, case: ProgramCase, tolerance: float) -> str:
    """Why a run does not pass; empty if it does."""
    if reply.status is not Status.FINISHED:
        return f"the program {how_it_ended(reply)}"
    if reply.exit_code == 0:
        return difference(reply.stdout.decode("utf-8", "replace"), case.stdout, tolerance)
    last = excerpt(reply.stderr).splitlines()[-1:]
    return f"the program {how_it_ended(reply)}{': ' + shorten(last[0]) if last else ''}"


def run_calls(
    sandbox: Sandbox, language: Language, source: str, checks: Sequence[Check],
    options: CodeOptions,
) -> Report:  # fmt: skip
    """Whether functions of a language other than Python return what they should.

    Raises:
        SandboxFailure, SandboxUnavailable: if that cannot be found out.
    """
    assert isinstance(language, CallingLanguage)
    functions = sorted({call.function for check in checks for call in check.calls})
    program = language.call_program(source, tuple(functions))
    names = [check.name for check in checks]
    ends = time.monotonic() + options.total_timeout
    results: list[TestResult] = []
    stderr = ""
    while len(results) < len(checks):
        left = checks[len(results) :]
        seconds = min(options.timeout * len(left), ends - time.monotonic())
        if seconds <= 0:
            results.append(TestResult.of(names[len(results)], "out of time for all tests"))
            break
        outcomes, reply = _outcomes(sandbox, language, program, left, options, seconds)
        stderr = stderr or excerpt(reply.stderr)
        for check, outcome in zip(left, outcomes, strict=False):
            problem = check.problem([outcome])
            results.append(TestResult.of(check.name, problem))
            if problem and (outcome.kind == "lost" or not options.partial):
                break
        if results[-1].status == "failed" and not options.partial:
            break
    return Report([*results, *not_run(names[len(results) :])], stderr=stderr)


def _outcomes(
    sandbox: Sandbox, language: Language, program: str, checks: Sequence[Check],
    options: CodeOptions, seconds: float,
) -> tuple[list[Outcome], Reply]:  # fmt: skip
    """What came of the calls, up to the one that ended the process."""
    mark = secrets.token_hex(16)
    calls = [
        {"function": check.calls[0].function, "arguments": list(check.calls[0].arguments)}
        for check in checks
    ]
    stdin = json.dumps({"mark": mark, "calls": calls}).encode()
    limits = replace(options.limits(seconds), output_bytes=max(options.max_output, _MAX_LINE))
    reply = sandbox.run(language.run_job(program, {}, stdin, limits))
    lost = Outcome("lost", problem=f"the program {how_it_ended(reply)}")
    lines = [
        line.removeprefix(mark)
        for line in reply.stdout.decode("utf-8", "replace").split("\n")
        if line.startswith(mark)
    ]
    outcomes = [_read_line(line) for line in lines[: len(checks)]]
    if len(outcomes) < len(checks):
        outcomes.append(lost)
    return outcomes, reply


def _read_line(line: str) -> Outcome:
    try:
        answer = codec.load(line.encode("ascii", "backslashreplace"))
    except codec.CodecError as error:
        return Outcome("lost", problem=f"the program wrote no JSON: {error}")
    if type(answer) is dict and "value" in answer:
        return Outcome("value", answer["value"])
    if type(answer) is dict and type(answer.get("error")) is str:
        text = shorten(answer["error"])
        return Outcome("raised", None, text, (text.partition(":")[0],))
    return Outcome("lost", problem="the program wrote no answer")
