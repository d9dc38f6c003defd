"""Namespaces around the zygote, once: its own network, processes, ipc, names and files.

An ordinary user needs a user namespace to make the others; root does without, and falls back to it
where a container has taken root's right away. What can be had is used; what not is said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import kernel

_KINDS = {
    "mount": kernel.CLONE_NEWNS,
    "pid": kernel.CLONE_NEWPID,
    "net": kernel.CLONE_NEWNET,
    "ipc": kernel.CLONE_NEWIPC,
    "uts": kernel.CLONE_NEWUTS,
    "cgroup": kernel.CLONE_NEWCGROUP,
}
NAMES = (*_KINDS, "user")
_HOST_NAME = "sandbox"
PLACES = "/box"  # where working directories are in the private root
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What was left for new ones.

    Attributes:
        made: names out of `NAMES`; empty where the kernel refuses.
        refusal: why not.
    """

    made: tuple[str, ...]
    refusal: str = ""


def leave(*, is_root: bool) -> Namespaces:
    """Move this process into new namespaces; of processes, its next child is the first.

    Needs a process without further threads.
    """
    flags = 0
    for flag in _KINDS.values():
        flags |= flag
    uid, gid = os.getuid(), os.getgid()
    if is_root:
        with contextlib.suppress(OSError):
            kernel.unshare(flags)
            return Namespaces(tuple(_KINDS))
    try:
        kernel.unshare(flags | kernel.CLONE_NEWUSER)
        with contextlib.suppress(FileNotFoundError):  # since Linux 3.19
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError as error:
        return Namespaces((), str(error))
    return Namespaces(NAMES)


def set_host_name() -> None:
    """Nothing of the machine's name is seen."""
    name = _HOST_NAME.encode()
    kernel.check(kernel.libc().sethostname(name, len(name)), "sethostname")


def private_root(shown: Iterable[str], hidden: Iterable[str], base: str, disk_mb: int) -> bool:
    """A root of its own: some folders of the machine, read-only, and a small disk in memory.

    Called by the first process of the namespaces.

    Args:
        shown: folders and files that keep their paths.
        hidden: folders in them that are seen empty.
        base: an existing folder to build on.
        disk_mb: size of the disk for all working directories together.

    Returns:
        Whether /proc is there (containers often do not allow it).

    Raises:
        OSError: if it cannot be built; the old root is still there then.
    """
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    quiet = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", base, "tmpfs", quiet, "size=4m,mode=755")
    try:
        paths = sorted({os.path.realpath(path) for path in shown})
        closed = {os.path.realpath(path) for path in hidden}
        inner = [path for path in paths if any(_is_in(path, folder) for folder in closed)]
        _show(base, [path for path in paths if path not in inner])
        _link_top_folders(base)
        _devices(base)
        for path in closed:
            if os.path.isdir(base + path):
                kernel.mount("tmpfs", base + path, "tmpfs", quiet, "size=64k,mode=755")
        _show(base, inner)
        os.makedirs(base + PLACES)
        options = f"size={disk_mb}m,nr_inodes=16k,mode=711"
        kernel.mount("tmpfs", base + PLACES, "tmpfs", quiet, options)
        has_proc = _proc(base)
        os.makedirs(base + "/tmp", exist_ok=True)
        os.makedirs(base + "/.old")
        kernel.pivot_root(base, base + "/.old")
    except OSError:
        kernel.unmount(base)
        raise
    os.chdir("/")
    kernel.unmount("/.old")
    os.rmdir("/.old")
    flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | quiet
    kernel.mount("none", "/", "", flags)
    return has_proc


def _show(base: str, paths: list[str]) -> None:
    """Bind folders and files at their own paths, read-only; those inside of others come along."""
    done: list[str] = []
    for path in paths:
        if not os.path.exists(path) or any(_is_in(path, other) for other in done):
            continue
        target = base + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            Path(target).touch()
        kernel.mount(path, target, "", kernel.MS_BIND)
        flags = os.statvfs(target).f_flag & 0xF | 0x3 | kernel.MS_NODEV
        kernel.mount("none", target, "", kernel.MS_REMOUNT | kernel.MS_BIND | flags)
        done.append(path)


def _is_in(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")


def _link_top_folders(base: str) -> None:
    """/bin -> usr/bin and the like."""
    for entry in os.scandir("/"):
        target = os.path.join(base, entry.name)
        if entry.is_symlink() and not os.path.lexists(target):
            os.symlink(os.readlink(entry.path), target)


def _devices(base: str) -> None:
    os.makedirs(base + "/dev")
    for name in _DEVICES:
        target = f"{base}/dev/{name}"
        Path(target).touch()
        kernel.mount(f"/dev/{name}", target, "", kernel.MS_BIND)
        read_only = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID
        kernel.mount("none", target, "", read_only | kernel.MS_NOEXEC)
    for name, to in _LINKS.items():
        os.symlink(to, f"{base}/dev/{name}")


def _proc(base: str) -> bool:
    os.makedirs(base + "/proc")
    flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    for options in ("subset=pid,hidepid=invisible", "hidepid=2", ""):
        with contextlib.suppress(OSError):
            kernel.mount("proc", base + "/proc", "proc", flags, options)
            return True
    return False
