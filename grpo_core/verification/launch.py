"""The trainer's end of the zygote: start it, order workers, order kills, read its reports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_core import errors
from grpo_core.errors import ConfigError, GrpoError, PluginError, VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Json
from grpo_core.verification.calls import VerifierCard
from grpo_core.verification.protocol import FrameReader, receive_available, to_frame

# The zygote sees the trainer's sys.path, whatever put things there.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from grpo_core.verification.zygote import main; main(int(sys.argv[1]))"
)
_GRACE = 2.0  # seconds for the zygote to end by itself


@dataclass(frozen=True, slots=True)
class VerifierSpec:
    """A verifier to run.

    Attributes:
        name: as registered.
        deadline: seconds for one call, whatever the verifier itself asks for; None leaves it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a zygote needs to know; the same one restarts it.

    Attributes:
        deadline, memory_mb: for verifiers that ask for nothing else.
        directory: the working directory, which paths of plugin files may be relative to.
    """

    verifiers: tuple[VerifierSpec, ...]
    sources: PluginSources
    deadline: float
    memory_mb: int
    start_deadline: float
    directory: str

    @property
    def names(self) -> str:
        """The verifiers for people."""
        return ", ".join(f"'{spec.name}'" for spec in self.verifiers)

    @property
    def text(self) -> str:
        """The message to the zygote.

        Raises:
            ConfigError: if options are not plain JSON values.
        """
        try:
            return json.dumps(
                {
                    "files": self.sources.files,
                    "use_entry_points": self.sources.use_entry_points,
                    "verifiers": [
                        [spec.name, dict(spec.options), spec.deadline] for spec in self.verifiers
                    ],
                    "deadline": self.deadline,
                    "memory_mb": self.memory_mb,
                }
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"options of verifiers must be plain JSON values ({self.names}): {error}."
            ) from error


class ZygoteClient:
    """A running zygote.

    Attributes:
        cards: what it has loaded, by name.
        control: the connection; readable when there are reports.
    """

    def __init__(self, setup: Setup) -> None:
        """Start a zygote and wait until its plugins are loaded.

        Raises:
            ConfigError, PluginError: what loading the plugins raised.
            VerifierError: if the zygote could not be started or did not get ready in time.
        """
        message = to_frame(setup.text)
        self._process, self.control = _start_process(setup.directory)
        self._reader = FrameReader()
        self.cards: dict[str, VerifierCard] = {}
        is_ready = False
        try:
            self.control.sendall(message)
            ready = self._handshake(setup)
            self.cards = {
                card["name"]: VerifierCard(**{**card, "reads": tuple(card["reads"])})
                for card in ready
            }
            self.control.setblocking(False)
            is_ready = True
        finally:
            if not is_ready:
                self.kill()
                self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def spawn(self, worker: int, role: str, memory_mb: int) -> socket.socket:
        """Order a worker; returns the connection to it, which can be used at once.

        Raises:
            OSError: if the zygote is gone or does not read.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            order = {"spawn": worker, "role": role, "memory_mb": memory_mb}
            frame = to_frame(json.dumps(order))
            try:
                socket.send_fds(self.control, [frame], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def kill_worker(self, worker: int, grace: float = 0.0) -> None:
        """Order a kill, after `grace` seconds in which the worker may end by itself.

        Raises:
            OSError: if the zygote is gone or does not read.
        """
        self.control.sendall(to_frame(json.dumps({"kill": worker, "grace": grace})))

    def reports(self) -> tuple[list[dict[str, Any]], bool]:
        """What it has reported since the last call, and whether it is gone."""
        data, is_gone = receive_available(self.control)
        return [json.loads(frame) for frame in self._reader.feed(data)], is_gone

    def kill(self) -> None:
        """End it at once; its workers die with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        """Let it kill its workers and end; returns when it has."""
        self.control.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()

    def _handshake(self, setup: Setup) -> list[dict[str, Json]]:
        """Wait for the cards."""
        until = time.monotonic() + setup.start_deadline
        while True:
            self.control.settimeout(max(until - time.monotonic(), 0.001))
            try:
                data = self.control.recv(1 << 16)
            except TimeoutError as error:
                raise VerifierError(
                    f"loading verifiers {setup.names} took more than {setup.start_deadline:g} s. "
                    "Is a plugin hanging while it is imported, or in its preload()?"
                ) from error
            except ConnectionError:
                data = b""
            if not data:
                raise PluginError(
                    f"the process that loads verifiers {setup.names} {self._end()} while plugins "
                    "were being imported; what it printed is on stderr."
                )
            for frame in self._reader.feed(data):
                message = json.loads(frame)
                if "failed" in message:
                    raise _rebuild(*message["failed"])
                return list(message["ready"])

    def _end(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended (exit code {code})"


def _start_process(directory: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A fresh interpreter that runs `zygote.main`, and the connection to it."""
    if not (hasattr(os, "fork") and sys.executable):
        raise VerifierError("verifiers need a system with fork (Linux, macOS) and sys.executable.")
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), *map(str, sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd=directory,
                start_new_session=True,  # Ctrl-C and Ctrl-Z in the terminal are not for it
                env=_environment(),
            )
        except OSError as error:
            ours.close()
            raise VerifierError(f"cannot start {sys.executable}: {error.strerror}.") from error
    return process, ours


def _environment() -> dict[str, str]:
    """What workers may know: all but the key to a sampler, which is not theirs."""
    known = {name: value for name, value in os.environ.items() if name != "GRPO_SERVER_TOKEN"}
    # Workers run side by side already, and OpenMP threads do not survive a fork.
    return {**known, "OMP_NUM_THREADS": "1"}


def _rebuild(kind: str, message: str) -> GrpoError:
    """The error that the zygote raised, in this process."""
    error_type = getattr(errors, kind, PluginError)
    error: GrpoError = error_type.__new__(error_type)
    error.args = (message,)
    return error
