"""Landlock: which files a process may touch, by rules on folders; everything else is closed.

What later versions of the kernel's interface (ABI) add is used where it is there: files moved
between folders (2), truncation (3), TCP (4), device ioctls (5), abstract sockets and signals (6).
Source: the kernel's Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Mapping

from . import kernel

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 7, 1 << 8
_MAKE_SOCK, _MAKE_SYM, _REFER, _TRUNCATE = 1 << 9, 1 << 12, 1 << 13, 1 << 14
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | 1 << 15
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
_ADDED_NET, _ADDED_SCOPES, _ADDED_LOG = 4, 6, 7
_NO_LOG = 1  # LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF: denials are everyday here

READ = READ_FILE | READ_DIR
READ_AND_RUN = READ | EXECUTE
CHANGE = (
    READ | WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM
    | _REFER | _TRUNCATE
)  # fmt: skip


def abi() -> int:
    """The version of the kernel's interface; 0 where there is none."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE, None, 0, 1, what="landlock")
    except OSError:
        return 0


def create(rules: Mapping[str, int], version: int) -> int:
    """A ruleset as a descriptor; paths that do not exist are left out.

    Args:
        rules: path -> rights for it and all below.
        version: the ABI to use, at most that of the kernel.

    Raises:
        OSError: if the kernel refuses.
    """
    handled = _HANDLED[max(known for known in _HANDLED if known <= version)]
    attributes = struct.pack("Q", handled)
    if version >= _ADDED_NET:
        attributes += struct.pack("Q", _TCP)
    if version >= _ADDED_SCOPES:
        attributes += struct.pack("Q", _SCOPES)
    ruleset = kernel.syscall(
        kernel.LANDLOCK_CREATE, attributes, len(attributes), 0, what="landlock ruleset"
    )
    try:
        for path, rights in rules.items():
            _add(ruleset, path, rights & handled)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def restrict(ruleset: int, version: int) -> None:
    """Put this thread, and all it will start, under a ruleset. Needs no_new_privs.

    Raises:
        OSError: if the kernel refuses.
    """
    flags = _NO_LOG if version >= _ADDED_LOG else 0
    kernel.syscall(kernel.LANDLOCK_RESTRICT, ruleset, flags, what="landlock restrict")


def expand(roots: Iterable[str], hidden: Iterable[str], rights: int) -> dict[str, int]:
    """Rules for all below `roots` but what is `hidden`.

    Rules only ever add rights, so a folder with something hidden in it gives way to its entries;
    of such a folder itself names can be listed, nothing more.
    """
    away = {os.path.realpath(path) for path in hidden}
    rules: dict[str, int] = {}
    waiting = [os.path.realpath(root) for root in roots]
    while waiting:
        path = waiting.pop()
        if path in away or not os.path.exists(path):
            continue
        if any(other.startswith(path.rstrip("/") + "/") for other in away):
            rules[path] = READ_DIR
            waiting += _entries(path)
        else:
            rules[path] = rights
    return rules


def _entries(path: str) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(path) if not entry.is_symlink()]
    except OSError:
        return []


def _add(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            rights &= _OF_FILES
        if rights:
            rule = struct.pack("=Qi", rights, target)
            kernel.syscall(kernel.LANDLOCK_ADD, ruleset, 1, rule, 0, what=f"landlock {path}")
    finally:
        os.close(target)
