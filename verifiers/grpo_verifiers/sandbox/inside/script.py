"""Run Python source as a program of its own would run, in this process."""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import signal
import sys
import threading
import traceback
from _sitebuiltins import Quitter
from types import ModuleType, TracebackType
from typing import Any

_NAME = "main.py"
OUT_OF_MEMORY = signal.SIGUSR2  # a process of ours that ends by it ran into its memory limit


def fresh_streams() -> None:
    """Standard streams on descriptors 0 to 2, as a program has them whose output is a pipe.

    Made once by the zygote, which never uses them; its children inherit them unused.
    """
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)
    os.close(writing)
    sys.stdin = sys.__stdin__ = _text(0, "r")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _text(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _text(2, "w")  # type: ignore[misc]


def usual_builtins() -> None:
    """The names that `site` adds, which an interpreter started with -S lacks: exit and quit."""
    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D"))


def run_source(source: bytes) -> int:
    """Execute source as `__main__`; its exit code. Does not wait for what it has set up."""
    module = ModuleType("__main__")
    module.__file__ = _NAME
    sys.modules["__main__"] = module
    sys.argv = [_NAME]
    sys.path.insert(0, os.getcwd())
    try:
        exec(compile(source, _NAME, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as end:
        return _exit_code(end.code)
    except MemoryError:
        end_out_of_memory()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the program ends by it
        _show(error, source)
        return 1
    return 0


def end_out_of_memory() -> None:
    """End by a signal that says so; a program that catches it gains nothing."""
    with contextlib.suppress(OSError, ValueError):
        signal.signal(OUT_OF_MEMORY, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [OUT_OF_MEMORY])
        os.kill(os.getpid(), OUT_OF_MEMORY)


def finish(code: int) -> None:
    """What an interpreter does at its end: wait for threads, run atexit, flush; then end."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except MemoryError:
        end_out_of_memory()
    except BaseException:  # noqa: BLE001 - the program has replaced one of these
        code = code or 120
    finally:
        os._exit(code & 0xFF)


def _text(file: int, mode: str) -> Any:
    raw = io.FileIO(file, mode, closefd=False)
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    errors = "strict" if file < 2 else "backslashreplace"
    return io.TextIOWrapper(buffer, "utf-8", errors, write_through=file == 2)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    with contextlib.suppress(Exception):  # its text is the program's own code
        print(code, file=sys.stderr)
    return 1


def _show(error: BaseException, source: bytes) -> None:
    """The traceback as usual, without our own frames."""
    import linecache

    with contextlib.suppress(BaseException):  # the exception's text is the program's own code
        lines = source.decode("utf-8", "replace").splitlines(keepends=True)
        linecache.cache[_NAME] = (len(source), None, lines, _NAME)
        own = _own_part(error.__traceback__)
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(error.with_traceback(own))  # knows the source lines
        else:
            sys.excepthook(type(error), error, own)
        return
    os.write(2, b"the exception cannot be shown\n")


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    here = __file__
    while trace is not None and trace.tb_frame.f_code.co_filename == here:
        trace = trace.tb_next
    return trace


def show_ours(error: BaseException) -> str:
    """A failure before any code of the job ran."""
    return "".join(traceback.format_exception_only(error)).strip()
