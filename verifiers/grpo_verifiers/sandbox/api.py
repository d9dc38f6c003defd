"""What a sandbox is asked and what it answers; the face that every backend shows.

A job goes in as plain bytes and comes back as plain bytes. All that a reply or a guest's frame
holds was written by a stranger: it states something and proves nothing, so expected values and the
comparison stay with the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from grpo_core.errors import VerifierError


class SandboxUnavailable(VerifierError):
    """The isolation that was asked for is not there; says what is missing and what to do."""


class Status(StrEnum):
    """How a job ended. All but `ERROR` are the guest's doing."""

    FINISHED = "finished"  # by itself, with any exit code
    TIMEOUT = "timeout"  # out of wall or processor time
    MEMORY = "memory"  # it asked for more than its limit
    OUTPUT = "output"  # wrote more than it may, and was killed for it
    KILLED = "killed"  # by a signal, such as SIGSEGV or SIGABRT
    ERROR = "error"  # the sandbox's own failure; says nothing about the guest


class Level(StrEnum):
    """How much isolation is demanded; each level includes the ones before it."""

    PROCESS = "process"  # limits, scrubbed environment, no inherited descriptors
    OS = "os"  # and Landlock, seccomp, no capabilities: pip alone is enough
    NS = "ns"  # and namespaces of its own: files, processes, network, ipc
    CGROUP = "cgroup"  # and memory and processes counted by a control group


@dataclass(frozen=True, slots=True)
class Limits:
    """What a job may use up.

    Attributes:
        wall_seconds: from its start to its end, waiting included.
        cpu_seconds: of all its threads; None: one more than the wall limit.
        memory_mb: address space, the interpreter's own included (about 30 MB).
        output_bytes: of stdout and of stderr, each.
        file_mb: size of one file it writes.
        open_files: descriptors.
        processes: threads of a Python job; threads and processes of a command.
        frame_bytes: size of one frame from a guest.
        address_space: whether `memory_mb` limits the address space. False for runtimes that
            reserve far more than they use (node): then it limits private writable memory.
    """

    wall_seconds: float = 5.0
    cpu_seconds: float | None = None
    memory_mb: int = 512
    output_bytes: int = 1 << 20
    file_mb: int = 16
    open_files: int = 64
    processes: int = 64
    frame_bytes: int = 8 << 20
    address_space: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the three kinds of job have in common.

    Attributes:
        limits: what it may use up.
        stdin: all of its standard input.
        files: name -> content, put into its working directory, which is private, the only place
            it may write to, and deleted afterwards. Names are relative; "a/b" makes a folder.
            With a mode bit: content of a command's own program is made executable, see CommandJob.
        fetch: names of files that `Reply.files` brings back, where they exist (each at most
            `limits.file_mb`; symbolic links are not followed).
    """

    limits: Limits = Limits()
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    fetch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptJob(Job):
    """Python source, run as `__main__` in a child of a warm interpreter; no child processes.

    An uncaught exception is printed to stderr and gives exit code 1, as usual.
    """

    source: str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestJob(Job):
    """A guest module of ours, which talks with the caller in frames.

    Attributes:
        guest: name of a module given to `open_sandbox(guests={name: path})`. It was executed once
            in the warm interpreter, and `main(channel, payload)` of it is called in the child.
            `channel.receive() -> bytes | None` (None: the caller closed), `channel.send(bytes)`.
            The job ends when main returns. If the module has a function `warm_up()`, that is
            called once in the warm interpreter: code that has run before is faster in the
            children. It must leave nothing behind.
        payload: for main.
    """

    guest: str
    payload: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandJob(Job):
    """A program, which may start further processes; all of them are gone when it ends.

    Attributes:
        argv: the program and its arguments. A name without "/" is looked up in /usr/local/bin,
            /usr/bin and /bin; "./name" is a file of `files` or one made by the job before.
        env: added to the fixed environment (PATH, HOME, TMPDIR, LANG).
        executable: names out of `files` to be marked executable.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    executable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """How a job ended and what it wrote.

    Attributes:
        exit_code: None if it was ended by a signal, or by us.
        signal: that ended it, or None.
        seconds: wall time.
        cpu_seconds: user and system time.
        memory_mb: greatest resident size.
        detail: for people: which limit, which failure.
        files: those of `Job.fetch` that were there.
    """

    status: Status
    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_mb: float = 0.0
    detail: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of isolation as found at start.

    Attributes:
        name: such as "landlock".
        used: whether jobs are held by it.
        proved: whether the self-test saw its effect.
        found: what was seen, for people.
        cure: what to do where it is missing.
    """

    name: str
    used: bool
    proved: bool
    found: str
    cure: str = ""


class Guest(Protocol):
    """A running guest. Leaving its `with` block ends it."""

    def __enter__(self) -> Guest:
        """Itself."""

    def __exit__(self, *error: object) -> None:
        """Kill what still runs, without waiting for its end."""

    def send(self, frame: bytes) -> bool:
        """Give the guest a frame; False if it does not take any more (it ended, it does not read).

        Never blocks past the job's wall limit.
        """

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The guest's next frame; None if none came in time, or none will (see `is_over`)."""

    @property
    def is_over(self) -> bool:
        """Whether no further frame will come: it ended, broke the framing, or hit a limit."""

    def kill(self) -> None:
        """End it at once."""

    def close(self) -> Reply:
        """Close the channel, wait until the guest ends (its limits hold), and say how it did."""


class Sandbox(Protocol):
    """A way to run strangers' programs. Every method may be called from any thread, at once.

    Attributes:
        name: of the backend.
        job_types: the kinds of job it can run.
    """

    name: str
    job_types: tuple[type[Job], ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Isolation as measured at start.

        Raises:
            SandboxUnavailable: if it is weaker than what was asked for.
        """

    def run(self, job: Job) -> Reply:
        """Run a job to its end.

        Raises:
            SandboxUnavailable: if the sandbox cannot run such a job.
        """

    def start(self, job: GuestJob) -> Guest:
        """Start a guest and talk with it.

        Raises:
            SandboxUnavailable: if the sandbox cannot run guests.
        """

    def close(self) -> None:
        """End everything that it started."""
