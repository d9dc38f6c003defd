"""What attacks on the sandbox are aimed at, and the ways to run it that this machine offers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from grpo_verifiers.sandbox import Sandbox, SandboxUnavailable, open_sandbox
from grpo_verifiers.sandbox.bubblewrap import find_program

# Name -> arguments of open_sandbox. "os" is what pip alone gives; "old kernel" that of Linux 5.13.
_WITHOUT = ["namespaces", "files", "identity", "cgroup"]
WAYS: dict[str, dict[str, Any]] = {
    "all layers": {},
    "os": {"options": {"without": _WITHOUT}},
    "old kernel": {"options": {"without": _WITHOUT, "landlock_abi": 1}},
    "bubblewrap": {"backend": "bubblewrap"},
}


def open_way(name: str, **more: Any) -> Sandbox:
    """A sandbox of one kind; skips the test where this machine has none of it."""
    try:
        if name == "bubblewrap":
            find_program()
        sandbox = open_sandbox(**WAYS[name], **more)
        assert sandbox.layers
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    return sandbox


@dataclass(slots=True)
class World:
    """Bait, and what happened to it.

    Attributes:
        reached: what came in over sockets.
        signals: what this process was sent.
    """

    canary: Path
    port: int
    abstract: str
    reached: list[str] = field(default_factory=list)
    signals: list[int] = field(default_factory=list)

    def aim(self, program: str) -> str:
        """A program with its placeholders filled in."""
        values = {
            "@CANARY@": str(self.canary),
            "@PORT@": str(self.port),
            "@ABSTRACT@": self.abstract,
            "@CALLER@": str(os.getpid()),
        }
        for name, value in values.items():
            program = program.replace(name, value)
        return program

    def state(self) -> Any:
        """All that an attack may not change."""
        secret = self.canary / "secret"
        left = [path for path in _FOLDERS if Path(path, "grpo_left_behind.py").exists()]
        about = secret.stat() if secret.exists() else None
        return (
            sorted(os.listdir(self.canary)),
            about and (about.st_mode, about.st_mtime, about.st_size, about.st_nlink),
            left,
            tuple(self.reached),
            tuple(self.signals),
        )


_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", os.path.dirname(os.__file__))


@contextlib.contextmanager
def make_world(folder: Path) -> Iterator[World]:
    """Put out bait; take it in again."""
    canary = folder / "canary"
    canary.mkdir(parents=True)
    canary.chmod(0o777)
    (canary / "secret").write_text("SECRET of the trainer")
    (canary / "secret").chmod(0o666)
    abstract = f"grpo-test-{os.getpid()}-{id(canary):x}"
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = tcp.getsockname()[1]
        udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", port))
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.bind(f"\0{abstract}")
        stream.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(f"\0{abstract}-d")
        world = World(canary, port, abstract)
        before = signal.signal(signal.SIGUSR1, lambda number, frame: world.signals.append(number))
        stack.callback(signal.signal, signal.SIGUSR1, before)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(world, (tcp, udp, stream, datagrams), stop))
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stop.set)
        yield world


def _watch(world: World, sockets: tuple[socket.socket, ...], stop: threading.Event) -> None:
    for one in sockets:
        one.settimeout(0.02)
    while not stop.is_set():
        for one in sockets:
            with contextlib.suppress(TimeoutError):
                if one.type == socket.SOCK_DGRAM:
                    world.reached.append(str(one.recv(99)))
                else:
                    one.accept()[0].close()
                    world.reached.append("connection")


def processes_of(marker: str) -> list[str]:
    """Command lines of living processes in which a text occurs, this one left out."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if marker in line:
                    found.append(line)
    return found
