"""Giving up rights: capabilities, root's identity, and the way back to either."""

from __future__ import annotations

import os
import struct

from . import kernel

_CAPSET = {"x86_64": 126, "aarch64": 91}.get(os.uname().machine, -1)
_HEADER = struct.pack("=Ii", 0x20080522, 0)  # the version of the interface, and this process
_NONE = bytes(24)
_FIRST_UID = 1 << 30  # far from ids of people and services; each place has one of its own
_NOBODY = 65534


def no_new_privileges() -> None:
    """Setuid programs give nothing any more; what Landlock and seccomp ask for.

    Raises:
        OSError: if the kernel refuses.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1, what="no_new_privs")


def drop_capabilities() -> None:
    """Lose all capabilities; with no_new_privs, for ever.

    Raises:
        OSError: if the kernel refuses.
    """
    kernel.syscall(_CAPSET, _HEADER, _NONE, what="capset")


def become(uid: int) -> None:
    """Take on another identity, with no groups. Needs CAP_SETUID and CAP_SETGID.

    Raises:
        OSError: if the kernel refuses.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def strange_uid(seed: int, place: int, maps: str) -> int:
    """A user id that nobody has, another one for each place and zygote, within what is mapped.

    Args:
        seed: the zygote's own number.
        place: of the job in its zygote.
        maps: content of /proc/self/uid_map.
    """
    wanted = _FIRST_UID + (seed % (1 << 20)) * 64 + place
    spans = [(int(first), int(count)) for first, _, count in map(str.split, maps.splitlines())]
    if any(first <= wanted < first + count for first, count in spans):
        return wanted
    first, count = max(spans, key=lambda span: span[1])
    return _NOBODY if count < 4096 else first + count - 2 - place


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, and end if it has already."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9, what="pdeathsig")
    if os.getppid() != parent:
        os._exit(1)
