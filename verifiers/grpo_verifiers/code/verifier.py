"""The `code` verifier: does the program of a completion pass the tests of the reference?

`problems` reads the reference, `extraction` finds the program, and then one of three ways is taken:
`calls` for tests that are calls and comparisons, `relay` for other Python tests, `programs` for
input and output. In all of them the candidate's process only ever states values; the expected ones
and the comparison are elsewhere.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import threading
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import ClassVar

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.code.assembly import (
    MAX_CODE_CHARS,
    Program,
    assemble,
    context_of,
    defines,
    is_program,
)
from grpo_verifiers.code.calls import run_checks
from grpo_verifiers.code.cases import UnreadableReference
from grpo_verifiers.code.extraction import Extraction, extract_code
from grpo_verifiers.code.guests import GUESTS
from grpo_verifiers.code.languages.base import CallingLanguage, Language
from grpo_verifiers.code.languages.registry import find_language
from grpo_verifiers.code.problems import Problem, read_problem
from grpo_verifiers.code.programs import run_calls, run_programs
from grpo_verifiers.code.relay import run_tests
from grpo_verifiers.code.results import Report
from grpo_verifiers.code.session import SandboxFailure
from grpo_verifiers.code.settings import CodeOptions
from grpo_verifiers.code.shown import shorten
from grpo_verifiers.sandbox import GuestJob, Sandbox, open_sandbox

_MAX_REFERENCES = 256


class CodeVerifier:
    """Runs the program of a completion against the reference's tests, in a sandbox."""

    version = "1.0"
    # The sandbox's own limits come first. What gets past them and ends the worker is the
    # completion's doing, since reading a reference takes no time.
    candidate_bears_limits = True
    placement: ClassVar[str] = "workers"

    Config = CodeOptions

    def __init__(self, config: CodeOptions | None = None) -> None:
        self.config = config or CodeOptions()
        self.deadline = self.config.deadline
        self.memory_mb: int | None = None
        self._opened: Sandbox | None = None
        self._lock = threading.Lock()

    @staticmethod
    def examples() -> Sequence[object]:
        """Its golden table, for the conformance suite."""
        return importlib.import_module("grpo_verifiers.code.examples").EXAMPLES

    def preload(self) -> None:
        """Start the sandbox once and let it prove itself, before a run begins.

        Raises:
            SandboxUnavailable: if the isolation that is asked for is not there.
        """
        sandbox = self._open()
        try:
            _ = sandbox.layers
        finally:
            sandbox.close()

    def close(self) -> None:
        """End the sandbox's processes."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would. Nothing of it is run.

        Raises:
            VerifierError: if it cannot be read, or the language's tools are not installed.
        """
        self._problem(reference)

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Verdict:
        try:
            problem, language = self._problem(sample.reference)
            return self._verdict(sample, problem, language)
        except VerifierError as error:
            return Verdict.error(str(error))

    def _verdict(self, sample: Sample, problem: Problem, language: Language) -> Verdict:
        found = self._extract(sample, problem, language)
        if found is None:
            return Verdict.unparseable(f"no {language.name} program was found")
        details: dict[str, Json] = {"method": found.method, "language": language.name}
        if len(found.code) > MAX_CODE_CHARS:
            return Verdict.wrong(f"the program is longer than {MAX_CODE_CHARS} characters", details)
        code = found.code.encode("utf-8", "backslashreplace").decode()
        report = self._run_again_if_the_sandbox_fails(code, problem, language)
        return report.verdict(partial=self.config.partial, details=details)

    def _run_again_if_the_sandbox_fails(
        self, code: str, problem: Problem, language: Language
    ) -> Report:
        """The report; a sandbox that fails at once gets a second try, since it has restarted."""
        started = time.monotonic()
        try:
            return self._run(code, problem, language)
        except SandboxFailure:
            if time.monotonic() - started > self.config.timeout:
                raise
            return self._run(code, problem, language)

    def _run(self, code: str, problem: Problem, language: Language) -> Report:
        sandbox, options = self._sandbox(), self.config
        if problem.cases:
            source = assemble(problem.prompt, code, None) if language.name == "python" else None
            whole = f"{source.context}\n{source.code}" if source and source.context else code
            return run_programs(sandbox, language, whole, problem.cases, problem.tolerance, options)
        if language.name != "python":
            whole = _continued(problem.prompt, code, problem.checks[0].calls[0].function)
            return run_calls(sandbox, language, whole, problem.checks, options)
        program = assemble(problem.prompt, code, problem.entry_point)
        seed = _seed(program)
        if problem.checks:
            has_more = bool(problem.tests) and GuestJob in sandbox.job_types
            report = run_checks(
                sandbox, program, problem.checks, options, seed, stop_at_object=has_more
            )
            if not report.saw_object:
                return report
        context = context_of(problem.prompt, problem.entry_point)
        return run_tests(sandbox, program, problem, context, options, seed)

    def _extract(self, sample: Sample, problem: Problem, language: Language) -> Extraction | None:
        is_python = language.name == "python"
        name = problem.tested
        return extract_code(
            sample.completion,
            language.tags,
            prompt=sample.prompt,
            is_code=is_program if is_python else None,
            defines=partial(defines, name=name) if is_python and name else None,
            blocks=self.config.blocks,
        )

    def _problem(self, reference: Json) -> tuple[Problem, Language]:
        """A reference that has been read, and its language.

        Raises:
            VerifierError: as check_reference does.
        """
        try:
            text = json.dumps(reference)
        except (TypeError, ValueError, RecursionError) as error:
            raise _unreadable(reference, f"it is not plain JSON: {error}") from error
        try:
            problem = _read(text)
            language = find_language(problem.language, self.config.languages)
            if problem.checks and language.name != "python":
                _check_calls(problem, language)
        except UnreadableReference as error:
            raise _unreadable(reference, str(error)) from error
        return problem, language

    def _sandbox(self) -> Sandbox:
        """The sandbox of this process, kept warm."""
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def _open(self) -> Sandbox:
        options = self.config
        return open_sandbox(
            level=options.level,
            backend=options.backend,
            allow_weaker=options.allow_weaker,
            guests=GUESTS,
            preload=options.preload,
            options=options.backend_options,
        )


@lru_cache(maxsize=_MAX_REFERENCES)
def _read(text: str) -> Problem:
    """A group's completions share the reading of their reference."""
    return read_problem(json.loads(text))


def _continued(prompt: str, code: str, name: str) -> str:
    """Source that continues a prompt, unless it defines the function itself."""
    defined = re.search(rf"\b(?:function\*?|const|let|var|class)\s+{re.escape(name)}\b", code)
    return code if defined or not prompt else prompt + code


def _check_calls(problem: Problem, language: Language) -> None:
    if not isinstance(language, CallingLanguage):
        raise UnreadableReference(f"functions of {language.name} cannot be called; give stdin")
    for check in problem.checks:
        if check.calls[0].keywords:
            raise UnreadableReference(f"{language.name} has no keyword arguments: {check.name}")
        try:
            json.dumps(list(check.calls[0].arguments))
        except TypeError as error:
            raise UnreadableReference(f"{check.name}: arguments are JSON: {error}") from error


def _seed(program: Program) -> int:
    """Random inputs of tests are the same for the same program, and for no other one."""
    text = f"{program.context}\0{program.code}".encode("utf-8", "backslashreplace")
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def _unreadable(reference: Json, why: str) -> VerifierError:
    return VerifierError(
        f"the reference {shorten(repr(reference))} cannot be read: {why}. "
        "Correct or drop this row of the data set."
    )
