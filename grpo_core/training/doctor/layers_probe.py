"""Try every isolation layer of Linux for real; prints one JSON object, layer -> [works, detail].

Run as a script, in an interpreter of its own: each layer is tried in a forked child, since none of
them can be taken off again. It imports the standard library only. A layer counts as working when
its effect was seen, not when a call returned without error.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_NEWNS, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
_NO_NEW_PRIVS, _GET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 39, 22, 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _READ_FILE = 444, 446, 1 << 2  # the same on all machines
_UNAME = {"x86_64": 63, "aarch64": 160}  # a harmless system call to forbid
_SECONDS = 10

libc = ctypes.CDLL(None, use_errno=True)


def user_namespace() -> str:
    """Be root in a namespace of one's own."""
    uid = os.getuid()
    _unshare(_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    _demand(os.getuid() == 0, "the user id was not mapped")
    return "root of its own"


def network_namespace() -> str:
    """No interface but loopback, and no way out."""
    before = os.readlink("/proc/self/ns/net")
    _unshare(_NEWUSER | _NEWNET)
    _demand(os.readlink("/proc/self/ns/net") != before, "the namespace is the same")
    names = [name for _, name in socket.if_nameindex()]
    _demand(set(names) <= {"lo"}, f"still sees {names}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        try:
            sender.connect(("192.0.2.1", 9))  # an address for documentation; nothing is sent
        except OSError as error:
            return f"no way out ({error.strerror})"
    raise OSError(0, "the network can still be reached")


def mount_namespace() -> str:
    """An empty folder over /tmp that others do not see."""
    uid = os.getuid()
    _unshare(_NEWUSER | _NEWNS)
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    _check(libc.mount(b"none", b"/", None, 0x44000, None))  # private, recursively
    _check(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
    _demand(os.listdir("/tmp") == [], "the folder mounted over /tmp is not empty")
    return "own files over the machine's"


def process_namespace() -> str:
    """The first process of a world of its own."""
    _unshare(_NEWUSER | _NEWPID)
    child = os.fork()
    if child == 0:
        os._exit(0 if os.getpid() == 1 else 1)
    _demand(os.waitpid(child, 0)[1] == 0, "the child is not process 1")
    return "sees no other processes"


def no_new_privs() -> str:
    """A promise, kept by the kernel, never to gain rights."""
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    _demand(libc.prctl(_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1, "the flag is not set")
    return "setuid programs give no rights"


def seccomp() -> str:
    """A filter that forbids one harmless system call."""
    number = _UNAME.get(platform.machine())
    _demand(number is not None, f"system calls of {platform.machine()} are not known here")
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    program = struct.pack("HBBI", 0x20, 0, 0, 0)  # load the call's number
    program += struct.pack("HBBI", 0x15, 0, 1, number)  # if it is uname
    program += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | 1)  # fail with EPERM
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # else allow
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _check(libc.prctl(_SET_SECCOMP, _FILTER, header, 0, 0))
    try:
        os.uname()
    except PermissionError:
        return "system calls can be forbidden"
    raise OSError(0, "the forbidden call went through")


def landlock() -> str:
    """No file may be read any more."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    _demand(version >= 1, os.strerror(ctypes.get_errno()))
    _check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
    rules = libc.syscall(_LANDLOCK_CREATE, struct.pack("Q", _READ_FILE), 8, 0)
    _demand(rules >= 0, os.strerror(ctypes.get_errno()))
    _check(libc.syscall(_LANDLOCK_RESTRICT, rules, 0))
    try:
        Path(__file__).read_bytes()
    except PermissionError:
        return f"files can be closed off (version {version})"
    raise OSError(0, "a forbidden file was read")


def memory_limit() -> str:
    """An address space that does not grow."""
    size = 1 << 28
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        bytearray(2 * size)
    except MemoryError:
        return "RLIMIT_AS holds"
    raise OSError(0, "more memory was given than the limit allows")


def file_limit() -> str:
    """A file that cannot grow."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(bytes(4096))
        try:
            file.write(b"one more")
        except OSError as error:
            return f"RLIMIT_FSIZE holds ({error.strerror})"
    raise OSError(0, "a larger file was written than the limit allows")


def process_limit() -> str:
    """A process that cannot start others."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        child = os.fork()
    except BlockingIOError:
        return "RLIMIT_NPROC holds"
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    raise OSError(0, "a child was started in spite of the limit, which root is exempt from")


def cgroup() -> str:
    """A group of our own, in which memory and processes are counted."""
    path = next(
        line.strip().rpartition(":")[2]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    parent = Path("/sys/fs/cgroup") / path.lstrip("/")
    group = parent / f"grpo-doctor-{os.getpid()}"
    group.mkdir()
    try:
        files = {"memory.max": "1G", "pids.max": "64"}
        missing = [name for name in files if not (group / name).exists()]
        _demand(not missing, f"no {', '.join(missing)} in a group below {path}")
        for name, value in files.items():
            (group / name).write_text(value)
    finally:
        group.rmdir()
    return "memory.max and pids.max can be set"


LAYERS: dict[str, Callable[[], str]] = {
    "user namespace": user_namespace,
    "network namespace": network_namespace,
    "mount namespace": mount_namespace,
    "process namespace": process_namespace,
    "no_new_privs": no_new_privs,
    "seccomp": seccomp,
    "landlock": landlock,
    "memory limit": memory_limit,
    "file size limit": file_limit,
    "process limit": process_limit,
    "cgroup": cgroup,
}


def attempt(layer: Callable[[], str]) -> tuple[bool, str]:
    """Try a layer in a child process; whether it works, and what was seen."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(_SECONDS)
            answer = json.dumps([True, layer()])
        except BaseException as error:  # noqa: BLE001 - the failure is the answer
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            answer = json.dumps([False, reason])
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as stream:
        answer = stream.read().decode()
    code = os.waitpid(child, 0)[1]
    if not answer:
        return False, f"the process that tried it was ended by signal {code & 0x7F}"
    works, detail = json.loads(answer)
    return bool(works), str(detail)


def _unshare(flags: int) -> None:
    _check(libc.unshare(flags))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise OSError(0, otherwise)


if __name__ == "__main__":
    json.dump({name: attempt(layer) for name, layer in LAYERS.items()}, sys.stdout)
