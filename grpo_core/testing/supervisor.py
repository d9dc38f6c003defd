"""Run the checks in a process of their own, which is replaced when it hangs or crashes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from grpo_core import errors
from grpo_core.errors import GrpoError, PluginError
from grpo_core.testing import child
from grpo_core.testing.bench import Settings
from grpo_core.testing.checks import CHECKS
from grpo_core.testing.example import Example, to_json
from grpo_core.testing.report import CheckResult
from grpo_core.testing.run import chosen_checks
from grpo_core.testing.subject import Subject

_LOADING = 300.0  # seconds for plugins and the first instance
_SILENCE = 60.0
_GRACE = 10.0  # for a process that has closed its output
_HASH_SEED = 0  # no randomness: a child's verdicts are the same tomorrow


def supervise(
    subject: Subject,
    examples: Sequence[Example],
    settings: Settings,
    on_result: Callable[[CheckResult], None],
) -> tuple[str, list[CheckResult]]:
    """The verifier's version and the results of all chosen checks, in order.

    Raises:
        GrpoError: what making the verifier raises, such as a ConfigError for wrong options.
    """
    checks = chosen_checks(settings)
    results: dict[str, CheckResult] = {}
    version = ""
    while len(results) < len(checks):
        run = _Child(subject, examples, settings, results)
        for message in run.messages():
            version = message.get("version", version)
            if "result" in message:
                result = CheckResult(**message["result"])
                results[result.name] = result
                on_result(result)
        if len(results) < len(checks):
            on_result(_unfinished(run, subject, results))
    return version, [results[check.name] for check in checks]


def _unfinished(run: _Child, subject: Subject, results: dict[str, CheckResult]) -> CheckResult:
    """Put down the check that a process did not get through as failed.

    Raises:
        PluginError: if it was in the middle of none, so that the next one would end as it did.
    """
    check = next((check for check in CHECKS if check.name == run.current), None)
    if check is None or check.name in results:
        raise PluginError(f"verifier {subject.title} cannot be tested: {run.end}")
    message = f"{run.end}; it was last asked about {run.asking!r}"
    results[check.name] = CheckResult(check.name, "failed", check.rule, message)
    return results[check.name]


class _Child:
    """One process.

    Attributes:
        current: the check that is under way.
        asking: the text that the verifier was last asked about.
        end: why there are no more messages.
    """

    def __init__(
        self,
        subject: Subject,
        examples: Sequence[Example],
        settings: Settings,
        results: dict[str, CheckResult],
    ) -> None:
        self.current, self.asking, self.end = "", "", ""
        self._chosen = settings.silence
        self._silence = _LOADING
        self._job = child.to_job(
            subject,
            examples=to_json(examples),
            settings=asdict(settings),
            outcomes={name: result.outcome for name, result in results.items()},
        )

    def messages(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends or is silent for too long.

        Raises:
            GrpoError: what the process raised before the first check.
        """
        with tempfile.TemporaryFile() as errors:
            process = child.start(_HASH_SEED, errors)
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(self._job)
            has_ended = False
            try:
                with process.stdout as stdout:
                    for line in self._lines(stdout.fileno()):
                        yield self._read(line)
                has_ended = not self.end
            finally:  # Ctrl-C gets here, too
                code = _finish(process, has_ended)
            if not self.end:
                errors.seek(0)
                tail = errors.read().decode(errors="replace").strip()[-1500:]
                self.end = f"its process ended with exit code {code}: {tail}"

    def _read(self, line: bytes) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise _rebuild(*message["error"])
        if "deadline" in message:
            longest = max(_SILENCE, 2 * message["deadline"])
            self._silence = longest if self._chosen is None else self._chosen
        self.current = message.get("start", self.current)
        self.asking = message.get("asking", self.asking)
        return message

    def _lines(self, descriptor: int) -> Iterator[bytes]:
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while selector.select(self._silence):
                data = os.read(descriptor, 1 << 16)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                yield from lines
        self.end = f"no sign of life for {self._silence:g} s"


def _finish(process: subprocess.Popen[bytes], has_ended: bool) -> int:
    """Wait for its end, or bring it about; returns the exit code."""
    if has_ended:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _rebuild(kind: str, message: str) -> GrpoError:
    error_type = getattr(errors, kind, PluginError)
    error: GrpoError = error_type.__new__(error_type)
    error.args = (message,)
    return error
