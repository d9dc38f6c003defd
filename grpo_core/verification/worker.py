"""A worker process: reads calls from the trainer, runs verifiers, and answers.

It lives through many calls and is killed without warning, so nothing here needs cleaning up. The
memory limit ends the whole process: after a MemoryError nothing in it can be relied on.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from grpo_core.types import Json, Verdict
from grpo_core.verification import isolation
from grpo_core.verification.protocol import (
    MAX_REASON,
    FrameReader,
    decode_sample,
    encode_verdict,
    to_frame,
)

EXIT_MEMORY = 77  # exit code of a worker that ran into its memory limit
EXIT_CRASH = 78  # after an error outside of any verifier; it was printed
EXIT_CONNECTION = 79  # the trainer is gone, or a verifier closed the connection


def run_worker(
    connection: socket.socket, verifiers: Mapping[str, Any], memory_mb: int, zygote: int
) -> NoReturn:
    """Serve calls until the trainer closes the connection. Called right after the fork."""
    code = EXIT_CRASH
    try:
        os.setsid()  # our own group: the kill takes whatever a verifier has started, too
        isolation.die_with_parent()
        if os.getppid() != zygote:
            os._exit(0)
        isolation.set_process_name("grpo-verifier")
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's business
        isolation.limit_memory(memory_mb)
        _serve(connection, verifiers)
    except MemoryError:
        code = EXIT_MEMORY
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def _serve(connection: socket.socket, verifiers: Mapping[str, Any]) -> NoReturn:
    home = isolation.working_directory()
    reader = FrameReader()
    while data := _receive(connection):
        for frame in reader.feed(data):
            request = json.loads(frame)
            verifier = verifiers[request["verifier"]]
            run = _verify if request["kind"] == "verify" else _check_reference
            started = time.perf_counter()
            outcome = _contain(run, verifier, request["items"])
            seconds = time.perf_counter() - started
            _tidy(home)
            _send(connection, f'{{"id":{request["id"]},"seconds":{seconds:.6f},{outcome}}}')
    os._exit(EXIT_CONNECTION)


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def _send(connection: socket.socket, text: str) -> None:
    try:
        connection.sendall(to_frame(text))
    except OSError:
        os._exit(EXIT_CONNECTION)


def _contain(run: Callable[[Any, list[Json]], str], verifier: Any, items: list[Json]) -> str:
    """The boundary to the plugin: whatever it raises becomes a reply, except MemoryError."""
    try:
        return run(verifier, items)
    except MemoryError:
        os._exit(EXIT_MEMORY)
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a plugin costs one verdict, too
        details = {
            "exception": type(error).__name__,
            "message": _clip(_message(error)),
            "where": _last_line(error),
        }
        return _failure(f"raised {_one_line(error)}", details)


def _verify(verifier: Any, items: list[Json]) -> str:
    samples = [decode_sample(item) for item in items]
    results = verifier.verify(samples)
    if isinstance(results, str | bytes | Mapping) or not hasattr(results, "__iter__"):
        return _failure(f"returned {_short(results)} where a list of verdicts was expected")
    verdicts = list(results)
    if len(verdicts) != len(samples):
        return _failure(f"returned {len(verdicts)} verdicts for {len(samples)} sample(s)")
    for verdict in verdicts:
        if not isinstance(verdict, Verdict):
            return _failure(f"returned {_short(verdict)} where a Verdict was expected")
    try:
        return f'"verdicts":[{",".join(map(encode_verdict, verdicts))}]'
    except (TypeError, ValueError, RecursionError) as error:
        return _failure(f"returned a verdict that is not plain JSON: {_one_line(error)}")


def _check_reference(verifier: Any, items: list[Json]) -> str:
    for reference in items:
        verifier.check_reference(reference)
    return '"verdicts":[]'


def _failure(cause: str, details: Mapping[str, str] | None = None) -> str:
    return f'"failure":{json.dumps([_clip(cause), dict(details or {})])}'


def _tidy(home: str) -> None:
    """Undo what a verifier may have left behind that would hit the next one."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(OSError):
        os.chdir(home)


def _one_line(error: BaseException) -> str:
    message = " ".join(_message(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__ is a stranger's code
        return "(its text cannot be printed)"


def _last_line(error: BaseException) -> str:
    frames: Sequence[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__, limit=-1)
    return "".join(f"{f.filename}:{f.lineno} in {f.name}: {f.line}" for f in frames)


def _short(value: object) -> str:
    """A stranger's object for people; plain numbers in full."""
    plain = isinstance(value, int | float | None)
    return f"{value!r:.60}" if plain else f"an object of type {type(value).__name__}"


def _clip(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
