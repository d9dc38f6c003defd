"""The caller's connection to a zygote: start it, order jobs, end it."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.sandbox.api import SandboxUnavailable
from grpo_verifiers.sandbox.inside.setup import Setup
from grpo_verifiers.sandbox.inside.wire import MAX_ORDER, write_all

START_SECONDS = 30.0
_END_SECONDS = 5.0
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv[1]); from inside.launch import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]))"
)
_FLAGS = ("-S", "-s", "-P", "-B")
# Nothing of the caller's goes in. One thread for BLAS: others do not live through a fork. A fixed
# seed makes the order of sets, and with it verdicts, the same in every run.
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class ZygoteLink:
    """A running zygote.

    Attributes:
        used: layer -> what is in place.
        refused: layer -> why it is not.
        max_processes: threads and processes besides a job's own limit that are let through.
    """

    def __init__(self, setup: Setup, wrapper: Sequence[str] = ()) -> None:
        """Start a zygote and wait until it takes orders.

        Args:
            setup: what it shall do.
            wrapper: a command to run it in, such as bubblewrap with its options.

        Raises:
            SandboxUnavailable: if it cannot be started.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._process = _start(setup, theirs.fileno(), wrapper)
            answer = self._first_report()
            self.used: Mapping[str, str] = answer["used"]
            self.refused: Mapping[str, str] = answer["refused"]
            self.max_processes: int = answer["max_processes"]
        except BaseException:
            self.control.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the zygote, or of what stands around it."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def order(self, message: bytes, files: Sequence[int]) -> None:
        """Order a job.

        Raises:
            OSError: if the zygote is gone.
        """
        socket.send_fds(self.control, [message], files)

    def close(self) -> None:
        """End it and all its jobs."""
        self.control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _first_report(self) -> dict[str, Any]:
        until = time.monotonic() + START_SECONDS
        readable, _, _ = select.select([self.control], [], [], max(0, until - time.monotonic()))
        data = self.control.recv(MAX_ORDER) if readable else b""
        if not data:
            self._process.kill()
            self._process.wait()
            why = "ended" if readable else f"gave no sign of life for {START_SECONDS:g} s"
            raise SandboxUnavailable(
                f"the sandbox's own process {why} while starting; what it printed is on stderr."
            )
        answer: dict[str, Any] = json.loads(data)
        if "failed" in answer:
            self._process.wait()
            raise SandboxUnavailable(f"the sandbox cannot be started: {answer['failed']}.")
        return answer


def _start(setup: Setup, control: int, wrapper: Sequence[str]) -> subprocess.Popen[bytes]:
    file = memory_file("setup", json.dumps(asdict(setup)).encode())
    folder = str(Path(__file__).parent)
    program = [interpreter(), *_FLAGS, "-c", _BOOTSTRAP, folder, str(control), str(file)]
    try:
        return subprocess.Popen(
            [*wrapper, *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(control, file),
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailable(
            f"cannot start {[*wrapper, *program][0]}: {error.strerror}."
        ) from error
    finally:
        os.close(file)


def interpreter() -> str:
    """The program to run: a virtual environment's is a link to the real one, which needs no venv.

    Raises:
        VerifierError: if Python does not know its own program.
    """
    program = getattr(sys, "_base_executable", "") or sys.executable
    if not program:
        raise VerifierError("the sandbox needs sys.executable, which is empty in this process.")
    return os.path.realpath(program)


def memory_file(name: str, content: bytes, *, seal: bool = False) -> int:
    """A file in memory that holds some bytes, at its start; sealed, nobody can change it.

    Raises:
        OSError: if there is no memory.
    """
    import fcntl

    flags = os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if seal else 0)
    file = os.memfd_create(name, flags)
    try:
        write_all(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        if seal:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(file)
        raise
    return file
