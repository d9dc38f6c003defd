"""The self-test's guest: tries to break out, and says what happened. Standard library only.

Answers in frames of JSON: [name, held, what was seen]. The last attempt, to execute a program,
leaves no answer when it succeeds.
"""

from __future__ import annotations

import _thread
import errno
import importlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

_MODULE = "html.entities"  # of the standard library, and not imported yet


def main(channel: Any, payload: bytes) -> None:
    """Try everything in order."""
    facts = json.loads(payload)
    importlib.import_module(_MODULE)  # what is forbidden must not keep programs from running
    for name, attempt in ATTEMPTS.items():
        try:
            held, seen = attempt(facts)
        except OSError as error:
            held, seen = True, errno.errorcode.get(error.errno or 0, str(error))
        except MemoryError:
            held, seen = True, "MemoryError"
        channel.send(json.dumps([name, held, seen]).encode())
    try:
        os.execv("/bin/true", ["true"])
    except OSError as error:
        seen = errno.errorcode.get(error.errno or 0, str(error))
        channel.send(json.dumps(["execute", True, seen]).encode())


Result = tuple[bool, str]
Facts = Mapping[str, Any]


def _read_outside(facts: Facts) -> Result:
    with open(facts["canary"]) as file:
        return False, file.read(20)


def _write_outside(facts: Facts) -> Result:
    os.close(os.open(facts["canary"] + ".written", os.O_CREAT | os.O_WRONLY))
    return False, "a file was made"


def _list_root(_: Facts) -> Result:
    return False, f"{len(os.listdir('/'))} names"


def _see_outside(facts: Facts) -> Result:
    return not os.path.exists(facts["canary"]), "names outside are seen"


def _connect(facts: Facts) -> Result:
    with socket.socket() as client:
        client.settimeout(2)
        client.connect(("127.0.0.1", facts["port"]))
    return False, "connected"


def _abstract_socket(facts: Facts) -> Result:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + facts["abstract"])
    return False, "connected"


def _datagram(facts: Facts) -> Result:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair[0].sendto(b"x", "\0" + facts["abstract"])
    return False, "sent"


def _fork(_: Facts) -> Result:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return False, "forked"


def _signal_parent(_: Facts) -> Result:
    os.kill(os.getppid(), 0)
    return False, "the parent can be signalled"


def _signal_caller(facts: Facts) -> Result:
    os.kill(facts["caller"], 0)
    return False, "the caller can be signalled"


def _read_parent(_: Facts) -> Result:
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        return False, f"{len(file.read())} bytes"


def _read_caller(facts: Facts) -> Result:
    with open(f"/proc/{facts['caller']}/environ", "rb") as file:
        return False, f"{len(file.read())} bytes"


def _unlisted_call(_: Facts) -> Result:
    os.sched_rr_get_interval(0)  # harmless, and not on the list
    return False, "a call that is not on the list went through"


def _allocate(facts: Facts) -> Result:
    block = bytearray(facts["memory_mb"] << 20)
    return False, f"{len(block) >> 20} MB"


def _big_file(facts: Facts) -> Result:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    block = bytes(1 << 20)
    try:
        with open("big", "wb", buffering=0) as file:
            for _ in range(facts["file_mb"] + 1):
                if file.write(block) < len(block):
                    return True, "cut off"
    except OSError as error:
        return error.errno == errno.EFBIG, errno.errorcode.get(error.errno or 0, "")
    finally:
        os.unlink("big")
    return False, "a larger file was written"


def _closed_file(_: Facts) -> Result:
    os.close(os.open("closed", os.O_CREAT | os.O_WRONLY, 0o600))
    os.chmod("closed", 0)
    try:
        os.close(os.open("closed", os.O_RDONLY))
    finally:
        os.unlink("closed")
    return False, "file modes do not matter: capabilities are left"


def _descriptors(_: Facts) -> Result:
    extra = []
    for file in range(4, 256):
        try:
            os.fstat(file)
            extra.append(file)
        except OSError:
            continue
    return not extra, f"open: {extra}"


def _environment(facts: Facts) -> Result:
    extra = sorted(set(os.environ) - set(facts["environment"]))
    return not extra, f"found: {extra}"


def _threads(facts: Facts) -> Result:
    _thread.stack_size(1 << 16)
    for count in range(facts["max_processes"]):
        try:
            _thread.start_new_thread(time.sleep, (60,))
        except RuntimeError:
            return True, f"{count} threads"
    return False, f"{facts['max_processes']} threads"


def _identity(facts: Facts) -> Result:
    return os.getuid() != facts["uid"], f"user {os.getuid()}"


def _namespaces(facts: Facts) -> Result:
    is_first = os.getppid() == 1 and facts["caller"] != 1
    return is_first, f"process {os.getpid()}, child of {os.getppid()}"


ATTEMPTS: Mapping[str, Callable[[Facts], Result]] = {
    "read a file outside": _read_outside,
    "write a file outside": _write_outside,
    "list the root": _list_root,
    "see names outside": _see_outside,
    "connect to a port": _connect,
    "connect to an abstract socket": _abstract_socket,
    "send to an abstract socket": _datagram,
    "fork": _fork,
    "signal the parent": _signal_parent,
    "signal the caller": _signal_caller,
    "read the parent's environment": _read_parent,
    "read the caller's environment": _read_caller,
    "make an unlisted system call": _unlisted_call,
    "allocate past the limit": _allocate,
    "write past the limit": _big_file,
    "open a file without rights": _closed_file,
    "find inherited descriptors": _descriptors,
    "find inherited variables": _environment,
    "be the same user": _identity,
    "see the machine's processes": _namespaces,
    "start threads without end": _threads,
}
