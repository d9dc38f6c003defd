"""A command's supervisor: starts the program, and leaves nothing of it behind.

Where a process namespace can be made, the program lives in one whose first process is ours: when
that ends, the kernel ends everybody in it. Elsewhere the supervisor adopts orphans and kills until
there is none left.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import struct
from collections.abc import Mapping
from typing import NoReturn

from . import kernel, privileges, script, wire
from .confine import Place, Plan, confine
from .limits import JobLimits
from .places import write_files
from .wire import Order, Payload

PATH = "/usr/local/bin:/usr/bin:/bin"
_NOT_FOUND = 127
_STATUS = struct.Struct("<i")


def supervise(
    plan: Plan, ruleset: int | None, place: Place, order: Order, payload: Payload, report: int
) -> NoReturn:
    """Run a command to its end, then end as it did. Does not return."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1, what="subreaper")
    os.chdir(place.path)
    os.umask(0o077)
    write_files(payload.files, payload.executable, place.uid)
    if plan.nests:
        status = _in_namespace(plan, ruleset, place, order, payload, report)
    else:
        program = _start(plan, ruleset, place, order, payload, report)
        os.close(report)
        status = _wait_for(program)
        kill_children()
    _end_as(status)


def kill_children(spared: frozenset[int] = frozenset()) -> None:
    """Kill and reap all children and those that their deaths make children, but the spared."""
    while strays := [pid for pid in _children() if pid not in spared]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def environment(place: Place, extra: Mapping[str, str]) -> dict[str, str]:
    """All that a command finds in its environment."""
    fixed = {"PATH": PATH, "LANG": "C.UTF-8", "TZ": "UTC"}
    return {**fixed, "HOME": place.path, "TMPDIR": place.path, **extra}


def _in_namespace(
    plan: Plan, ruleset: int | None, place: Place, order: Order, payload: Payload, report: int
) -> int:
    """Start a first process, which starts the program; the program's wait status."""
    reading, writing = os.pipe()
    kernel.unshare(kernel.CLONE_NEWPID)
    first = os.fork()
    if first == 0:
        try:
            privileges.die_with_parent(0)  # parents outside of the namespace have no number in it
            os.close(reading)
            if _is_broken(writing):
                os._exit(0)  # the parent had ended already
            program = _start(plan, ruleset, place, order, payload, report)
            os.close(report)
            status = _wait_for(program)
            os.write(writing, _STATUS.pack(status))
        finally:
            os._exit(0)
    os.close(writing)
    os.close(report)
    os.waitpid(first, 0)
    answer = os.read(reading, _STATUS.size)
    return _STATUS.unpack(answer)[0] if answer else signal.SIGKILL


def _start(
    plan: Plan, ruleset: int | None, place: Place, order: Order, payload: Payload, report: int
) -> int:
    """Fork the program; its process id."""
    own = os.getpid()
    program = os.fork()
    if program:
        if ruleset is not None:
            os.close(ruleset)
        return program
    try:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
            signal.signal(number, signal.SIG_DFL)
        path = shutil.which(payload.argv[0], path=PATH) or payload.argv[0]
        confine(plan, ruleset, place.uid, order.profile, JobLimits(*order.limits), own)
    except BaseException as error:  # noqa: BLE001 - our own failure, told to the caller
        os.write(report, wire.encode_report({"failed": script.show_ours(error)}))
        os._exit(1)
    try:
        os.execve(path, payload.argv, environment(place, payload.env))
    except OSError as error:
        os.write(2, f"{payload.argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(_NOT_FOUND)


def _is_broken(pipe: int) -> bool:
    """Whether nobody is left to read from a pipe."""
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def _wait_for(program: int) -> int:
    """Reap whatever ends until the program does; its wait status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == program:
            return status


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(OSError):  # SIGKILL has no handler to take off
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _children() -> list[int]:
    """Process ids; none where there is no /proc, in which case a namespace ends with us."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:
        return []
