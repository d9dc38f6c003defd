"""Decide at the zygote's start what holds its jobs, and say what was found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import cgroups, landlock, namespaces, privileges, seccomp
from .confine import Place, Plan
from .places import MAX_PLACES

PREFIX = "grpo-sandbox-"


@dataclass(frozen=True, slots=True)
class Setup:
    """What the caller asks of a zygote, as it comes over the wire.

    Attributes:
        number: the caller's process id.
        without: layers to leave out.
        guests: name, path and source of modules to execute.
        preload: modules to import.
        path: `sys.path` while modules are preloaded.
        roots: profile -> folders that jobs can read.
        hidden: folders in them that they cannot.
        landlock_abi: use no later one.
        wrapped: namespaces that the program which started us has made.
        folder: where temporary files go.
    """

    number: int
    without: tuple[str, ...]
    guests: tuple[tuple[str, str, str], ...]
    preload: tuple[str, ...]
    path: tuple[str, ...]
    roots: Mapping[str, tuple[str, ...]]
    hidden: tuple[str, ...]
    landlock_abi: int
    wrapped: tuple[str, ...]
    folder: str
    disk_mb: int
    total_memory_mb: int
    total_processes: int
    cgroup: str


@dataclass(frozen=True, slots=True)
class Start:
    """What is asked before /proc may go away.

    Attributes:
        floor: bytes of address space in use.
        uid_map: the identities that exist here.
        folder: for working directories, or to build a root on; made for this zygote.
    """

    floor: int
    uid_map: str
    folder: str


@dataclass(slots=True)
class Found:
    """What the layers came to.

    Attributes:
        used: layer -> what was put in place, for people.
        refused: layer -> why it is not.
        max_processes: how many threads and processes are let through besides a job's own limit.
    """

    max_processes: int = 0
    used: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def add(self, layer: str, works: bool, text: str) -> None:
        """Note a layer."""
        (self.used if works else self.refused)[layer] = text


def enter_groups(setup: Setup, found: Found) -> cgroups.Cgroup:
    """Make and enter control groups, if wanted and possible."""
    if "cgroup" in setup.without:
        found.add("cgroup", False, "left out")
        return cgroups.Cgroup()
    cgroups.sweep()
    name = f"{cgroups.PREFIX}{os.getpid()}-{setup.number}"
    group = cgroups.make(name, setup.total_memory_mb, setup.total_processes, setup.cgroup)
    both = set(group.controllers) == {"memory", "pids"}
    held = f"{' and '.join(group.controllers)} counted" if group.controllers else ""
    found.add("cgroup", both, "; ".join(filter(None, (held, group.refusal))))
    return group


def leave_namespaces(setup: Setup, found: Found) -> namespaces.Namespaces:
    """Leave the machine's namespaces, if wanted and possible."""
    if setup.wrapped:
        found.add("namespaces", True, f"{', '.join(setup.wrapped)}, made by the wrapper")
        return namespaces.Namespaces(())
    if "namespaces" in setup.without:
        found.add("namespaces", False, "left out")
        return namespaces.Namespaces(())
    made = namespaces.leave(is_root=os.getuid() == 0)
    found.add("namespaces", bool(made.made), ", ".join(made.made) or made.refusal)
    return made


def private_files(setup: Setup, made: namespaces.Namespaces, found: Found, start: Start) -> str:
    """Build the private root where possible; the folder for working directories."""
    reason = "left out" if "files" in setup.without else "needs a mount namespace"
    if setup.wrapped:
        found.add("files", True, "a root of its own, made by the wrapper")
        return start.folder
    if made.made and "files" not in setup.without:
        shown = {path for roots in setup.roots.values() for path in roots}
        try:
            namespaces.set_host_name()
            has_proc = namespaces.private_root(shown, setup.hidden, start.folder, setup.disk_mb)
            proc = "its own" if has_proc else "no"
            text = f"a read-only root with {proc} /proc, {setup.disk_mb} MB of disk in memory"
            found.add("files", True, text)
            return namespaces.PLACES
        except OSError as error:
            reason = str(error)
    found.add("files", False, reason)
    return start.folder


def make_plan(setup: Setup, made: namespaces.Namespaces, found: Found, start: Start) -> Plan:
    """What will be done to every job."""
    away = setup.without
    abi = min(landlock.abi(), setup.landlock_abi)
    use_landlock = abi > 0 and "landlock" not in away
    found.add("landlock", use_landlock, f"version {abi}" if abi else "not in this kernel")
    if "landlock" in away:
        found.refused["landlock"] = "left out"
    machine = os.uname().machine
    use_seccomp = machine in seccomp.AUDIT_ARCH and "seccomp" not in away
    unknown = f"system calls of {machine} are not known" if not use_seccomp else machine
    found.add("seccomp", use_seccomp, "left out" if "seccomp" in away else unknown)
    found.add("rlimits", "rlimits" not in away, _or_left_out("rlimits", away))
    found.add("privileges", "privileges" not in away, _or_left_out("privileges", away))
    has_uids, uid_text = _can_change_identity(setup, found, start)
    found.add("identity", has_uids, uid_text)
    num_foreign = _foreign(setup, has_uids, made)
    _count_processes(setup, found, num_foreign)
    confines_signals = bool(made.made or setup.wrapped) or (use_landlock and abi >= 6)
    rules = {
        profile: _rules(roots, setup.hidden, profile) for profile, roots in setup.roots.items()
    }
    return Plan(
        landlock_abi=abi if use_landlock else 0,
        rules=rules if use_landlock else {},
        machine=machine if use_seccomp else "",
        drops_rights="privileges" not in away,
        has_uids=has_uids,
        has_limits="rlimits" not in away,
        kill_any=confines_signals,
        may_chmod=has_uids or ("files" in found.used and not (setup.wrapped and os.getuid() == 0)),
        nests=bool(made.made),
        num_foreign=num_foreign,
        floor=start.floor,
    )


def make_place(plan: Plan, setup: Setup, folder: str, index: int, start: Start) -> Place:
    """A new working directory.

    Raises:
        OSError: if it cannot be made.
    """
    uid = None
    if plan.has_uids:
        uid = privileges.strange_uid(setup.number, index, start.uid_map)
    path = os.path.join(folder, str(index))
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, uid)
    return Place(path, uid)


def _rules(roots: tuple[str, ...], hidden: tuple[str, ...], profile: str) -> dict[str, int]:
    rights = landlock.READ_AND_RUN if profile == "command" else landlock.READ
    rules = landlock.expand(roots, hidden, rights)
    rules["/dev/null"] = landlock.READ_FILE | landlock.WRITE_FILE
    devices = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
    return rules | dict.fromkeys(devices, landlock.READ_FILE)


def _or_left_out(layer: str, away: tuple[str, ...]) -> str:
    return "left out" if layer in away else "set for each job"


def _can_change_identity(setup: Setup, found: Found, start: Start) -> tuple[bool, str]:
    """Whether jobs can run as users that nobody is; only root can make them so."""
    if "identity" in setup.without:
        return False, "left out"
    if os.getuid() != 0 or "user" in found.used.get("namespaces", ""):
        return False, "only root can give jobs an identity of their own"
    uid = privileges.strange_uid(setup.number, MAX_PLACES, start.uid_map)
    child = os.fork()
    if child == 0:
        try:
            privileges.become(uid)
            for root in setup.roots["python"]:
                os.stat(root)
            os._exit(0)
        finally:
            os._exit(1)
    works = os.waitpid(child, 0)[1] == 0
    if works:
        return True, f"a user id of its own for each job, such as {uid}"
    return False, "the interpreter's folders are root's alone"


def _count_processes(setup: Setup, found: Found, num_foreign: int | None) -> None:
    """Note what keeps a job from starting threads and processes without end."""
    group = found.used.get("cgroup") or found.refused.get("cgroup", "")
    if num_foreign is not None:
        found.add("processes", True, "threads and processes are counted for each job")
        found.max_processes = num_foreign
    elif "pids" in group.partition(" counted")[0]:
        found.add("processes", True, "threads and processes of all jobs are counted together")
        found.max_processes = setup.total_processes
    else:
        found.add("processes", False, "the kernel exempts root from RLIMIT_NPROC")


def _foreign(setup: Setup, has_uids: bool, made: namespaces.Namespaces) -> int | None:
    """See `limits.apply`."""
    if "rlimits" in setup.without:
        return None
    if has_uids:
        return 0
    if os.getuid() == 0:
        return None  # the kernel exempts root
    if "user" in made.made:
        return MAX_PLACES + 2  # the zygote, and jobs beside this one
    return len([name for name in os.listdir("/proc") if name.isdigit()]) + 256
