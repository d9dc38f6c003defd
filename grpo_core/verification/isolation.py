"""What the operating system does for us: ties between processes, limits, and the kill.

Linux has all of it. macOS lacks the memory limit and the tie to a parent that was killed itself;
deadlines and the end of the pool need neither.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

IS_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if IS_LINUX else None


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that none of them gets away."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_process_name(name: str) -> None:
    """The name that `ps` and `top` show; the kernel keeps 15 characters."""
    if _libc is not None:
        _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def limit_memory(megabytes: int) -> None:
    """Let the address space of this process grow by no more than `megabytes`.

    And write no core files, and be the first to go when the whole machine is out of memory: a
    worker can be replaced, the trainer cannot.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if IS_LINUX:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + megabytes * (1 << 20)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def kill_group(leader: int) -> None:
    """SIGKILL everybody in the group that `leader` leads, or led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def kill_child(pid: int) -> None:
    """SIGKILL a child that was not reaped yet, and the group it leads, if it does already."""
    kill_group(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def working_directory() -> str:
    """Where this process is, or the root if that folder was deleted."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return os.sep


def children() -> set[int]:
    """Process ids of this process's children; empty where the system does not tell."""
    found: set[int] = set()
    for file in Path("/proc/self/task").glob("*/children") if IS_LINUX else ():
        with contextlib.suppress(OSError):
            found.update(map(int, file.read_text().split()))
    return found


def _prctl(option: int, value: int) -> None:
    if _libc is not None and _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
