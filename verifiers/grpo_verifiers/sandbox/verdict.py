"""From what the zygote reports of a job to a `Reply`."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from grpo_verifiers.sandbox.api import Limits, Reply, Status
from grpo_verifiers.sandbox.inside.script import OUT_OF_MEMORY


def read_report(
    report: Mapping[str, Any],
    cause: str,
    limits: Limits,
    *,
    stdout: bytes,
    stderr: bytes,
    files: Mapping[str, bytes],
) -> Reply:
    """Say how a job ended.

    Args:
        report: the zygote's; without "status" if it could not say.
        cause: why the caller's side ended it: "output", "failed: ..." or a sentence.
        limits: the job's.
        stdout: what it wrote.
        stderr: likewise.
        files: what it left.
    """
    if cause.startswith("failed: ") or "status" not in report:
        failure = cause.removeprefix("failed: ") if cause.startswith("failed: ") else ""
        detail = failure or str(report.get("failed") or report.get("lost"))
        return Reply(Status.ERROR, stdout, stderr, detail=detail)
    code, number = _split(report["status"])
    status, detail = _judge(code, number, cause or report["cause"], limits, report["cpu_seconds"])
    return Reply(
        status, stdout, stderr, code if status is Status.FINISHED else None, number,
        report["seconds"], report["cpu_seconds"], report["memory_mb"], detail, files,
    )  # fmt: skip


def _split(status: int) -> tuple[int | None, int | None]:
    """Exit code or signal out of a wait status."""
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _judge(
    code: int | None, number: int | None, cause: str, limits: Limits, cpu: float
) -> tuple[Status, str]:
    """Status and detail, from what ended the job; a cause of ours stands before its signal."""
    cpu_limit = limits.cpu_seconds if limits.cpu_seconds is not None else limits.wall_seconds + 1
    if cause == "output":
        return Status.OUTPUT, f"wrote more than {limits.output_bytes} bytes of output"
    if cause == "wall":
        return Status.TIMEOUT, f"ran longer than {limits.wall_seconds:g} s"
    if cause:
        return Status.KILLED, cause
    if number is None:
        return Status.FINISHED, "" if code == 0 else f"exit code {code}"
    if number == OUT_OF_MEMORY:
        return Status.MEMORY, f"asked for more than {limits.memory_mb} MB of memory"
    if number == signal.SIGXCPU or (number == signal.SIGKILL and cpu >= cpu_limit):
        return Status.TIMEOUT, f"used more than {cpu_limit:g} s of processor time"
    if number == signal.SIGXFSZ:
        return Status.KILLED, f"wrote a file of more than {limits.file_mb} MB"
    return Status.KILLED, f"ended by {signal.Signals(number).name}"
