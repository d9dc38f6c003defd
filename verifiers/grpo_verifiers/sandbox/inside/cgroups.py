"""A control group around the zygote: memory and processes of all its jobs together.

Version 2 is used where a group was delegated to us, that is where we may make groups in which both
are counted; version 1 only for root and only where our own group is the hierarchy's root, since
any other belongs to the manager that made it. `GRPO_SANDBOX_CGROUP` names a folder of version 2 to
use instead.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MB = 1 << 20
PREFIX = "grpo-sandbox-"
_MOUNT = Path("/sys/fs/cgroup")
_V2 = {"memory": "memory.max", "pids": "pids.max"}
_V1 = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Groups made for a zygote.

    Attributes:
        folders: one of version 2, or one a controller of version 1.
        controllers: which are in force, of "memory" and "pids".
        refusal: why there is none, or not both.
    """

    folders: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    refusal: str = ""


def make(
    name: str, memory_mb: int, processes: int, chosen: str = "", mount: Path = _MOUNT
) -> Cgroup:
    """Make groups with limits and enter them.

    Args:
        name: of the new group, beginning with `PREFIX`.
        memory_mb: for all jobs together.
        processes: likewise.
        chosen: a folder of version 2 named by the user.
        mount: where the hierarchies are mounted.
    """
    own = own_groups(Path("/proc/self/cgroup").read_text())
    limits = {"memory": str(memory_mb * _MB), "pids": str(processes)}
    parents = [Path(chosen)] if chosen else _delegated(mount, own.get("", "/"))
    reasons = []
    for parent in parents:
        folder = parent / name
        try:
            _enter(folder, {file: limits[kind] for kind, file in _V2.items()})
            return Cgroup((str(folder),), tuple(_V2))
        except OSError as error:
            reasons.append(f"{parent}: {error.strerror}")
            remove([str(folder)])
    if chosen or not parents:
        reasons.append("no delegated group of version 2")
    folders, controllers = [], []
    for kind, file in _V1.items():
        group = own.get(kind)
        if chosen or group is None or not (mount / kind).is_dir():
            continue
        if group != "/":
            reasons.append(f"the {kind} group {group} is another manager's")
            continue
        folder = mount / kind / name
        try:
            _enter(folder, {file: limits[kind]})
            folders.append(str(folder))
            controllers.append(kind)
        except OSError as error:
            reasons.append(f"{kind}: {error.strerror}")
            remove([str(folder)])
    return Cgroup(tuple(folders), tuple(controllers), "; ".join(reasons))


def own_groups(text: str) -> dict[str, str]:
    """Controller -> our group, from /proc/self/cgroup; "" is version 2."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def remove(folders: Sequence[str]) -> None:
    """Remove groups that nobody is in."""
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def sweep(mount: Path = _MOUNT) -> None:
    """Remove groups whose zygote is gone, left by one that was killed."""
    for kind in (*_V1, ""):
        for folder in (mount / kind).glob(f"{PREFIX}*"):
            pid = folder.name[len(PREFIX) :].partition("-")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                remove([str(folder)])


def _delegated(mount: Path, own: str) -> list[Path]:
    """Groups of version 2 in which we may make others with both controllers, nearest first."""
    for root in (mount, mount / "unified"):
        if not (root / "cgroup.controllers").exists():
            continue
        group = root / own.lstrip("/")
        nearest = [group]
        if os.getuid() != 0:  # what lies above root's own group was not given to it
            nearest += [path for path in group.parents if path.is_relative_to(root)]
        return [path for path in nearest if _may_make(path)]
    return []


def _may_make(group: Path) -> bool:
    try:
        enabled = (group / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
    return {"memory", "pids"} <= set(enabled) and os.access(group / "cgroup.procs", os.W_OK)


def _enter(folder: Path, limits: dict[str, str]) -> None:
    folder.mkdir()
    for file, value in limits.items():
        (folder / file).write_text(value)
    (folder / "cgroup.procs").write_text(str(os.getpid()))
