"""System calls that Python has no function for, through ctypes. Linux only."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38

# The numbers of these are the same on x86-64 and arm64.
PIDFD_OPEN, LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 434, 444, 445, 446

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x08000000, 0x10000000, 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2


@cache
def libc() -> Any:
    """The C library; called through so that importing this module works everywhere."""
    library = ctypes.CDLL(None, use_errno=True)
    # Told beforehand, so that a call in a child, where every page that is touched has to be
    # copied, makes few objects. Pointers take integers, bytes and arrays alike.
    library.prctl.argtypes = (ctypes.c_int, *[ctypes.c_void_p] * 4)
    library.syscall.argtypes = (ctypes.c_long, *[ctypes.c_void_p] * 6)
    library.syscall.restype = ctypes.c_long
    return library


@cache
def _python_api() -> Any:
    """The C library, called without letting other threads in."""
    return ctypes.PyDLL(None, use_errno=True)


def fork() -> int:
    """A plain fork, without what Python does in a child: that alone costs more than the fork.

    None of it is needed where there is one thread only: it would make locks anew that nobody
    holds, and seed `random`, which is to be the same for all jobs.

    Raises:
        OSError: if the kernel refuses.
    """
    return check(_python_api().fork(), "fork")


def check(result: int, what: str) -> int:
    """The result, unless it is the sign of an error.

    Raises:
        OSError: with the error number and what failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(
    number: int, a: Any = 0, b: Any = 0, c: Any = 0, d: Any = 0, *, what: str = "system call"
) -> int:
    """A raw system call, with integers, bytes and arrays as arguments.

    Raises:
        OSError: if it fails.
    """
    return check(libc().syscall(number, a, b, c, d, 0, 0), what)


def prctl(option: int, a: Any = 0, b: Any = 0, *, what: str = "prctl") -> int:
    """Change something about this process.

    Raises:
        OSError: if it fails.
    """
    return check(libc().prctl(option, a, b, 0, 0), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones.

    Raises:
        OSError: if it fails.
    """
    check(libc().unshare(ctypes.c_int(flags)), "unshare")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """Put a file system, or a part of one, at a path.

    Raises:
        OSError: if it fails.
    """
    text = data.encode() if data else None
    result = libc().mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), text
    )
    check(result, f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    """Detach a mount; it ends when nobody uses it any more.

    Raises:
        OSError: if it fails.
    """
    check(libc().umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root; the old one is at `old`.

    Raises:
        OSError: if it fails.
    """
    number = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
    syscall(number, os.fsencode(new), os.fsencode(old), what="pivot_root")
