"""The filter on system calls: an allow-list, and EPERM for everything else.

A classic BPF program over `struct seccomp_data` {int nr; u32 arch; u64 ip; u64 args[6]}. Calls of
another architecture and of x32 end the process: their numbers mean other calls. clone3 answers
ENOSYS, as its flags lie in memory a filter cannot read, and C libraries then use clone.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping, Sequence

from . import kernel
from .syscalls import COMMAND, OWNERS, PYTHON, number_of

_LOAD, _JUMP, _EQUAL, _AT_LEAST = 0x20, 0x05, 0x15, 0x35
_ANY_BIT, _RETURN, _AND = 0x45, 0x06, 0x54
_NUMBER, _ARCHITECTURE = 0, 4  # offsets
ALLOW, KILL = 0x7FFF0000, 0x80000000
_ERRNO = 0x00050000
_EPERM, _ENOSYS = _ERRNO | 1, _ERRNO | 38
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_FILTER_MODE = 2

_THREAD = 0x00010000  # CLONE_THREAD
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*
_IOCTLS = (
    0x5401,  # TCGETS: isatty
    0x5413,  # TIOCGWINSZ
    0x541B,  # FIONREAD
    0x5421,  # FIONBIO
    0x5450,  # FIONCLEX
    0x5451,  # FIOCLEX
)
# Duplicates, flags, locks, size of a pipe. Not F_SETOWN and F_SETSIG, which send signals.
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032, 1034)
_PRCTLS = (15, 16, 0x53564D41)  # set and get the name; name a mapping
_COMMAND_PRCTLS = (3, 21, 23, 38, 39)  # read dumpable, seccomp, bounding set; no_new_privs
_AF_UNIX, _SOCK_STREAM = 1, 1

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
_ALLOWED: list[Instruction] = [(_RETURN, 0, 0, ALLOW)]
_FORBIDDEN: list[Instruction] = [(_RETURN, 0, 0, _EPERM)]


def build(machine: str, profile: str, *, kill_any: bool = False, may_chmod: bool = True) -> bytes:
    """The program for a machine and profile, with 0 where the process's own id belongs.

    Args:
        machine: "x86_64" or "aarch64".
        profile: "python" (threads only) or "command" (processes, too).
        kill_any: let commands send signals to any process, as those are confined otherwise.
        may_chmod: let modes, owners and times of files be changed.

    Raises:
        ValueError: for an unknown machine or profile.
    """
    if profile not in ("python", "command"):
        raise ValueError(f"profile must be 'python' or 'command', got {profile!r}.")
    is_command = profile == "command"
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, AUDIT_ARCH[machine] if machine in AUDIT_ARCH else _unknown(machine)),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    actions: dict[int, list[Instruction]] = {}
    tables = [*PYTHON, *([COMMAND] if is_command else []), *([OWNERS] if may_chmod else [])]
    listed = {name: _ALLOWED for table in tables for name in table}
    for name, action in {**listed, **_guards(is_command, kill_any and is_command)}.items():
        number = number_of(name, machine)
        if number is not None:
            actions[number] = action
    segments = _segments(actions)
    if machine == "x86_64":
        segments.append((_X32_BIT, [(_RETURN, 0, 0, KILL)]))
    program += _tree(segments)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


class Filter:
    """A program as the kernel takes it, made beforehand by the process that forks."""

    def __init__(self, program: bytes) -> None:
        self._buffer = ctypes.create_string_buffer(program, len(program))
        address = ctypes.addressof(self._buffer)
        self._header = struct.pack("HxxxxxxQ", len(program) // 8, address)
        marks = range(0, len(program), 8)
        self._places = [at + 4 for at in marks if program[at + 4 : at + 8] == _OWN_PID_BYTES]

    def install(self) -> None:
        """Put this thread, and all it will start, under the program. Needs no_new_privs.

        Raises:
            OSError: if the kernel refuses.
        """
        own = os.getpid()
        for place in self._places:
            struct.pack_into("=I", self._buffer, place, own)
        kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, self._header, what="seccomp filter")


OWN_PID = 0x7E57_1D00  # stands for the process's own id; no process has it
_OWN_PID_BYTES = struct.pack("=I", OWN_PID)


def _guards(is_command: bool, kill_any: bool) -> dict[str, list[Instruction]]:
    """Calls that depend on their arguments -> their checks, each of which ends with a return."""
    prctls = (*_PRCTLS, *_COMMAND_PRCTLS) if is_command else _PRCTLS
    stream = [*_argument(0), (_EQUAL, 0, 4, _AF_UNIX), *_argument(1), (_AND, 0, 0, 0xF)]
    own = _one_of(0, (OWN_PID,))
    signal = _ALLOWED if kill_any else own
    return {
        "ioctl": _one_of(1, _IOCTLS),
        "fcntl": _one_of(1, _FCNTLS),
        "prctl": _one_of(0, prctls),
        "prlimit64": _one_of(0, (0,)),
        "clone3": [(_RETURN, 0, 0, _ENOSYS)],
        "clone": _clone(is_command),
        "kill": signal,
        "tgkill": signal,
        "socketpair": [*stream, (_EQUAL, 0, 1, _SOCK_STREAM), *_verdicts()],
        "sendto": _zero(4),
    }


def _clone(is_command: bool) -> list[Instruction]:
    """Threads, or for commands processes too, but no new namespaces."""
    load = _argument(0)
    if is_command:
        return [*load, (_ANY_BIT, 1, 0, _NEW_NAMESPACES), *_verdicts()]
    threads = (_ANY_BIT, 0, 1, _THREAD)
    return [*load, (_ANY_BIT, 2, 0, _NEW_NAMESPACES), threads, *_verdicts()]


def _argument(index: int, *, high: bool = False) -> list[Instruction]:
    return [(_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))]


def _verdicts() -> list[Instruction]:
    return [(_RETURN, 0, 0, ALLOW), (_RETURN, 0, 0, _EPERM)]


def _one_of(index: int, values: Sequence[int]) -> list[Instruction]:
    """Allow if the low half of an argument is one of the values; the kernel reads no more of it."""
    count = len(values)
    tests = [(_EQUAL, count - at - 1, 0 if at < count - 1 else 1, v) for at, v in enumerate(values)]
    return [*_argument(index), *tests, *_verdicts()]


def _zero(index: int) -> list[Instruction]:
    """Allow if a pointer is null."""
    low, high = _argument(index), _argument(index, high=True)
    return [*low, (_EQUAL, 0, 3, 0), *high, (_EQUAL, 0, 1, 0), *_verdicts()]


def _segments(actions: Mapping[int, list[Instruction]]) -> list[tuple[int, list[Instruction]]]:
    """From which number on which action holds; neighbours with the same one are one."""
    segments: list[tuple[int, list[Instruction]]] = [(0, _FORBIDDEN)]
    for number in sorted({at for one in actions for at in (one, one + 1)}):
        action = actions.get(number, _FORBIDDEN)
        if action is not segments[-1][1]:
            segments.append((number, action))
    return segments


def _tree(segments: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find a number's segment by halving.

    A kernel works out beforehand what a filter says to every number, which takes a while when the
    filter looks at them one after the other.
    """
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    below, above = _tree(segments[:middle]), _tree(segments[middle:])
    return [(_AT_LEAST, 0, 1, segments[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]


def _unknown(machine: str) -> int:
    known = ", ".join(AUDIT_ARCH)
    raise ValueError(f"system calls of {machine!r} are not known; this is for {known}.")
