"""How a process of several ends: at once, when all its work is done.

A thread of gloo's may let go of a tensor at any moment, and needs the interpreter's lock for that.
If the interpreter is taking itself apart by then, Python before 3.14 ends the thread in the middle
of a C++ destructor, and with it the process: "terminate called without an active exception",
SIGABRT (https://github.com/pytorch/pytorch/issues/190489). `World.leave` does not end the threads;
they live as long as anything refers to the process group, as every sharded weight does. So one of
several processes does what an interpreter does at its end, short of taking itself apart.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable

from grpo_core.training.world import num_processes

_FAILED = 1
_INTERRUPTED = 130
_UNWRITABLE = 120  # Python's own, when output cannot be flushed


def run_to_the_end(program: Callable[[], object]) -> None:
    """Run a program; one of several processes ends with it, and this does not return.

    Exit codes and what is printed are the interpreter's own. Threads are waited for, what is
    registered with `atexit` is done, output is flushed.

    Args:
        program: returns, or raises SystemExit as by `sys.exit`, or any other exception.

    Raises:
        BaseException: what `program` raises, in a process that is alone.
    """
    if num_processes() == 1:
        program()
        return
    try:
        program()
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    except BaseException as error:  # noqa: BLE001 - shown and turned into a code, as ever
        sys.excepthook(type(error), error, error.__traceback__)
        status = _INTERRUPTED if isinstance(error, KeyboardInterrupt) else _FAILED
    _finish(status)


def _status(code: str | int | None) -> int:
    """The exit code for what was given to `sys.exit`, which prints anything but a number."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return _FAILED


def _finish(status: int) -> None:
    threading._shutdown()  # type: ignore[attr-defined] # as multiprocessing does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # closed, or a pipe that nobody reads any more
            status = status or _UNWRITABLE
    os._exit(status & 0xFF)
