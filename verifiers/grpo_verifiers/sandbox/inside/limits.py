"""Resource limits of a job."""

from __future__ import annotations

import math
import os
import resource
from dataclasses import dataclass

_MB = 1 << 20
_STACK = 64 * _MB  # recursion in C is deep in programs for contests
_SPARE = 64 * _MB  # over what the interpreter has already: less than this runs nothing


@dataclass(frozen=True, slots=True)
class JobLimits:
    """As `api.Limits`, as it comes over the wire."""

    wall_seconds: float
    cpu_seconds: float | None
    memory_mb: int
    output_bytes: int
    file_mb: int
    open_files: int
    processes: int
    frame_bytes: int
    address_space: bool


def apply(limits: JobLimits, *, floor: int, num_foreign: int | None) -> None:
    """Set them on this process, as far as those it has itself allow.

    Args:
        limits: of the job.
        floor: bytes that are mapped before the job's code runs.
        num_foreign: processes that the kernel counts with this job's without being of it; None
            where counting makes no sense.
    """
    cpu = limits.cpu_seconds if limits.cpu_seconds is not None else limits.wall_seconds + 1
    seconds = max(1, math.ceil(cpu))
    file_bytes = limits.file_mb * _MB
    values: dict[int, tuple[int, int]] = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (seconds, seconds + 1),  # SIGXCPU, which can be caught; then SIGKILL
        resource.RLIMIT_FSIZE: (file_bytes, file_bytes),
        resource.RLIMIT_NOFILE: (limits.open_files, limits.open_files),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (256, 256),
    }
    if limits.address_space:
        size = max(limits.memory_mb * _MB, floor + _SPARE)
        values[resource.RLIMIT_AS] = (size, size)
        values[resource.RLIMIT_STACK] = (_STACK, _STACK)
    else:
        values[resource.RLIMIT_DATA] = (limits.memory_mb * _MB,) * 2
    if num_foreign is not None:
        values[resource.RLIMIT_NPROC] = (limits.processes + num_foreign,) * 2
    for kind, wanted in values.items():
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            wanted = (min(wanted[0], hard), min(wanted[1], hard))
        resource.setrlimit(kind, wanted)


def address_space() -> int:
    """Bytes that this process has mapped."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
