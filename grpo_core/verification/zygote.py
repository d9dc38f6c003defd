"""The zygote: a fresh process that loads verifiers once and forks workers on request.

The trainer is never forked, because it has threads. The zygote is started by exec, so it re-imports
no `__main__`; it runs no verifier code after loading, so it stays sound; and it is the parent of
all workers, so it can kill and reap them without a race for process ids. When the trainer is gone,
however it ended, the zygote kills everything and ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

from grpo_core.errors import GrpoError, PluginError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.registry import Registration, cure_of
from grpo_core.types import Json
from grpo_core.verification import isolation
from grpo_core.verification.cards import make_card
from grpo_core.verification.protocol import FrameReader, to_frame
from grpo_core.verification.worker import EXIT_CRASH, run_worker

_TICK = 1.0  # seconds between looks at whether the trainer is still there


def main(control_fd: int) -> None:
    """Load what the first message asks for, answer with the verifiers' cards, then serve."""
    trainer = os.getppid()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)  # what plugins print goes to stderr,
    sys.stdout = sys.stderr  # and at once
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    isolation.set_process_name("grpo-zygote")
    control = socket.socket(fileno=control_fd)
    reader = FrameReader()
    frames: list[bytes] = []
    while not frames:
        data = control.recv(1 << 16)
        if not data:
            return
        frames = reader.feed(data)
    setup = json.loads(frames[0])
    try:
        verifiers, cards = _load(setup)
    except GrpoError as error:
        _send(control, {"failed": [type(error).__name__, str(error)]})
        return
    except BaseException as error:  # such as sys.exit() while a plugin is imported
        message = f"loading verifiers failed: {type(error).__name__}: {error}"
        _send(control, {"failed": ["PluginError", message]})
        raise
    _send(control, {"ready": cards})
    Zygote(control, verifiers, trainer).serve()


def _load(setup: Mapping[str, Any]) -> tuple[dict[str, Any], list[Json]]:
    """The verifiers by name, preloaded, and their cards."""
    plugins = load_plugins(PluginSources(tuple(setup["files"]), setup["use_entry_points"]))
    verifiers, cards = {}, []
    for name, options, deadline in setup["verifiers"]:
        registration = plugins.verifiers[name]
        verifier = plugins.verifiers.create(name, options)
        card = make_card(verifier, registration, deadline, setup["deadline"], setup["memory_mb"])
        if card.placement != "trainer":
            _preload(verifier, registration)
        verifiers[name] = verifier
        cards.append(asdict(card))
    return verifiers, cards


def _preload(verifier: Any, registration: Registration) -> None:
    try:
        if callable(getattr(verifier, "preload", None)):
            verifier.preload()
    except GrpoError:
        raise
    except Exception as error:  # a stranger's preload() may raise anything; we attribute it
        plugin = registration.plugin
        raise PluginError(
            f"verifier '{registration.name}' of plugin '{plugin.name}' ({plugin.origin}) failed in "
            f"preload(): {type(error).__name__}: {error}. {cure_of(error)}"
        ) from error


class Zygote:
    """Forks, kills, and reaps workers as the trainer asks."""

    def __init__(self, control: socket.socket, verifiers: Mapping[str, Any], trainer: int) -> None:
        self._control = control
        self._verifiers = verifiers
        self._trainer = trainer
        self._reader = FrameReader()
        self._connections: deque[int] = deque()  # received, not yet given to a worker
        self._workers: dict[int, int] = {}  # pid -> the trainer's name for it
        self._kill_at: dict[int, float] = {}  # pid -> when
        self._forced: set[int] = set()
        self._own_children = isolation.children()  # what plugins have started on purpose
        self._alarm, self._alarm_sender = socket.socketpair()

    def serve(self) -> NoReturn:
        """Run until the trainer is gone."""
        isolation.adopt_orphans()
        for end in (self._alarm, self._alarm_sender):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._alarm_sender.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # keeps the collector from touching pages that workers share
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        try:
            while os.getppid() == self._trainer and self._step(dict(poll.poll(self._wait_ms()))):
                pass
        except ConnectionError:
            pass  # the trainer is gone
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            self._kill_everything()
            os._exit(0)

    def _wait_ms(self) -> float:
        next_kill = min(self._kill_at.values(), default=float("inf")) - time.monotonic()
        return 1000 * min(max(next_kill, 0.0), _TICK)

    def _step(self, ready: Mapping[int, int]) -> bool:
        """Do what is due; False when the trainer has closed the control connection."""
        if self._alarm.fileno() in ready:
            self._alarm.recv(4096)
        if self._control.fileno() in ready and not self._obey():
            return False
        for pid, due in list(self._kill_at.items()):
            if time.monotonic() >= due:
                del self._kill_at[pid]
                self._forced.add(pid)
                isolation.kill_child(pid)
        self._reap()
        return True

    def _obey(self) -> bool:
        data, connections, _, _ = socket.recv_fds(self._control, 1 << 16, 64)
        self._connections.extend(connections)
        for frame in self._reader.feed(data):
            command = json.loads(frame)
            if "spawn" in command:
                self._spawn(command, self._connections.popleft())
            else:
                for pid, worker in self._workers.items():
                    if worker == command["kill"]:
                        self._kill_at[pid] = time.monotonic() + command["grace"]
        return bool(data)

    def _spawn(self, command: Mapping[str, Any], connection_fd: int) -> None:
        zygote, worker, role = os.getpid(), command["spawn"], command["role"]
        verifiers = {role: self._verifiers[role]} if role else self._verifiers
        try:
            pid = os.fork()
        except OSError as error:
            print(f"grpo: cannot fork a verifier's worker: {error}", file=sys.stderr)
            os.close(connection_fd)
            report = {"ended": worker, "status": EXIT_CRASH << 8, "forced": False}
            _send(self._control, report)
            return
        if pid == 0:
            try:
                for connection in (self._control, self._alarm, self._alarm_sender):
                    connection.close()
                for other in self._connections:
                    os.close(other)
                connection = socket.socket(fileno=connection_fd)
                run_worker(connection, verifiers, command["memory_mb"], zygote)
            finally:
                os._exit(EXIT_CRASH)
        os.close(connection_fd)
        self._workers[pid] = worker
        _send(self._control, {"started": worker, "pid": pid})

    def _reap(self) -> None:
        """Report workers that ended."""
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            isolation.kill_group(pid)  # while members live, nobody else can get this id
            worker = self._workers.pop(pid)
            self._kill_at.pop(pid, None)
            self._kill_strays()
            report = {"ended": worker, "status": status, "forced": pid in self._forced}
            self._forced.discard(pid)
            _send(self._control, report)

    def _kill_strays(self) -> None:
        """Kill what ended workers have left: descendants that had left the worker's group."""
        for _ in range(20):  # each round may orphan a further generation
            strays = [pid for pid in isolation.children() if self._is_stray(pid)]
            for pid in strays:
                isolation.kill_child(pid)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            if not strays:
                return

    def _is_stray(self, pid: int) -> bool:
        if pid in self._workers or pid in self._own_children:
            return False
        try:
            return os.getpgid(pid) not in self._workers
        except ProcessLookupError:
            return True

    def _kill_everything(self) -> None:
        for pid in self._workers:
            isolation.kill_child(pid)
        for pid in self._workers:
            os.waitpid(pid, 0)
        self._workers.clear()
        self._own_children.clear()
        self._kill_strays()


def _send(control: socket.socket, message: Mapping[str, Json]) -> None:
    control.sendall(to_frame(json.dumps(message)))
