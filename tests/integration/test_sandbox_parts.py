"""The sandbox's parts by themselves: the filter on both machines, rules, places, frames."""

from __future__ import annotations

import itertools
import os
import re
import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import ConfigError
from grpo_verifiers.sandbox import Limits, Status, open_sandbox
from grpo_verifiers.sandbox.inside import (
    cgroups,
    frames,
    landlock,
    places,
    privileges,
    seccomp,
    syscalls,
    wire,
)
from grpo_verifiers.sandbox.inside.limits import JobLimits
from grpo_verifiers.sandbox.inside.script import OUT_OF_MEMORY
from grpo_verifiers.sandbox.link import memory_file
from grpo_verifiers.sandbox.selftest import CURES, DEMANDED, STOPPED_BY
from grpo_verifiers.sandbox.verdict import read_report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
PROGRAMS = list(itertools.product(syscalls.MACHINES, ("python", "command")))


def decide(
    program: bytes, machine: str, number: int, *arguments: int, arch: int | None = None
) -> int:
    """What a filter answers to a call; an interpreter of classic BPF, written for this test."""
    architecture = seccomp.AUDIT_ARCH[machine] if arch is None else arch
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<iIQ6Q", number, architecture, 0, *(a & (2**64 - 1) for a in padded))
    lines = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = lines[at]
        at += 1
        if code == 0x05:
            at += value
        elif code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return int(value)
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value}
            at += if_true if test.get(code, bool(accumulator & value)) else if_false


def names(profile: str) -> set[str]:
    tables = (*syscalls.PYTHON, syscalls.OWNERS)
    more = syscalls.COMMAND if profile == "command" else {}
    return {name for table in (*tables, more) for name in table}


@pytest.mark.parametrize(("machine", "profile"), PROGRAMS)
def test_a_call_is_allowed_exactly_if_it_is_listed(machine: str, profile: str) -> None:
    program = seccomp.build(machine, profile)
    listed = {syscalls.number_of(name, machine) for name in names(profile)} - {None}
    guarded = {syscalls.number_of(name, machine) for name in syscalls.GUARDED} - {None}
    for number in set(range(600)) - guarded:
        assert decide(program, machine, number) == (ALLOW if number in listed else EPERM), number
    for number in (-1, 0x3FFFFFFF):
        assert decide(program, machine, number) != ALLOW
    assert decide(program, machine, syscalls.ALL["read"][0], arch=0x40000003) == KILL  # i386
    for other in set(seccomp.AUDIT_ARCH) - {machine}:
        assert decide(program, machine, 0, arch=seccomp.AUDIT_ARCH[other]) == KILL


@pytest.mark.parametrize(("machine", "profile"), PROGRAMS)
def test_owners_calls_are_allowed_only_where_nothing_outside_is_owned(
    machine: str, profile: str
) -> None:
    program = seccomp.build(machine, profile, may_chmod=False)
    for name in syscalls.OWNERS:
        number = syscalls.number_of(name, machine)
        if number is not None:
            assert decide(program, machine, number) == EPERM, name


def test_x32_ends_the_process() -> None:
    program = seccomp.build("x86_64", "python")
    assert decide(program, "x86_64", 0x40000000) == KILL  # read, in x32
    assert decide(program, "x86_64", 0x40000000 + 520) == KILL  # execve, in x32


@pytest.mark.parametrize(("machine", "profile"), PROGRAMS)
def test_arguments_are_looked_at(machine: str, profile: str) -> None:
    program, own = seccomp.build(machine, profile), seccomp.OWN_PID

    def ask(name: str, *arguments: int) -> int:
        number = syscalls.number_of(name, machine)
        assert number is not None
        return decide(program, machine, number, *arguments)

    thread = 0x3D0F00  # what glibc passes
    assert ask("clone", thread) == ALLOW
    assert ask("clone", 17) == (ALLOW if profile == "command" else EPERM)  # SIGCHLD: a process
    for namespace in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", thread | namespace) == ask("clone", 17 | namespace) == EPERM
    assert ask("clone3") == ENOSYS
    assert ask("kill", own) == ask("tgkill", own, 5) == ALLOW
    for pid in (1, 0, -1, own + 1):
        assert ask("kill", pid, 9) == ask("tgkill", pid, 5, 9) == EPERM
    assert ask("ioctl", 0, 0x5412) == EPERM  # TIOCSTI: type into the terminal
    assert ask("ioctl", 0, 0x5401) == ask("ioctl", 0, 0x5421) == ALLOW
    for command in (8, 10, 15, 1024, 1026):  # F_SETOWN, F_SETSIG, F_SETOWN_EX, leases, notices
        assert ask("fcntl", 0, command) == EPERM
    assert ask("fcntl", 0, 3) == ask("fcntl", 0, 1030) == ALLOW
    assert ask("socketpair", 1, 1) == ask("socketpair", 1, 1 | 0o2000000) == ALLOW
    for domain, kind in ((2, 1), (1, 2), (1, 5), (16, 3), (1, 3)):
        assert ask("socketpair", domain, kind) == EPERM
    assert ask("sendto", 3, 0, 0, 0, 0) == ALLOW
    assert ask("sendto", 3, 0, 0, 0, 1) == ask("sendto", 3, 0, 0, 0, 1 << 32) == EPERM
    assert ask("prlimit64", 0) == ALLOW and ask("prlimit64", 1) == EPERM
    assert ask("prctl", 15) == ALLOW
    for option in (1, 22, 35, 36, 4):  # parent's death, seccomp, mm, subreaper, dumpable
        assert ask("prctl", option) == EPERM


def test_commands_may_signal_each_other_where_something_else_confines_signals() -> None:
    program = seccomp.build("x86_64", "command", kill_any=True)
    assert decide(program, "x86_64", syscalls.ALL["kill"][0], 77, 9) == ALLOW


DANGEROUS = (
    "socket", "connect", "bind", "listen", "accept", "accept4", "sendmsg", "sendmmsg",
    "ptrace", "process_vm_readv", "process_vm_writev", "mount", "umount2", "unshare", "setns",
    "pivot_root", "chroot", "bpf", "perf_event_open", "io_uring_setup", "io_uring_enter",
    "memfd_create", "memfd_secret", "shmget", "shmat", "msgget", "semget", "mq_open", "keyctl",
    "add_key", "request_key", "userfaultfd", "pidfd_open", "pidfd_send_signal", "pidfd_getfd",
    "personality", "setuid", "setgid", "setresuid", "setgroups", "capset", "init_module",
    "kexec_load", "reboot", "swapon", "sethostname", "settimeofday", "clock_settime",
    "name_to_handle_at", "open_by_handle_at", "fanotify_init", "inotify_init1",
    "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    "tkill", "vmsplice", "acct", "quotactl", "seccomp", "landlock_restrict_self", "setpriority",
    "sched_setaffinity", "sched_setscheduler", "ioprio_set", "truncate", "mknod",
    "mknodat", "setxattr",
)  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
def test_dangerous_calls_are_on_no_list(name: str) -> None:
    assert name not in syscalls.ALL


def test_every_call_of_x86_is_known_on_arm64_or_has_a_newer_one_there() -> None:
    replaced = {
        "open": "openat", "stat": "newfstatat", "lstat": "newfstatat", "access": "faccessat",
        "dup2": "dup3", "getdents": "getdents64", "rename": "renameat2", "mkdir": "mkdirat",
        "rmdir": "unlinkat", "creat": "openat", "link": "linkat", "unlink": "unlinkat",
        "symlink": "symlinkat", "readlink": "readlinkat", "chmod": "fchmodat", "utime": "utimensat",
        "utimes": "utimensat", "futimesat": "utimensat", "poll": "ppoll", "select": "pselect6",
        "pause": "rt_sigsuspend", "alarm": "setitimer", "epoll_create": "epoll_create1",
        "epoll_wait": "epoll_pwait", "eventfd": "eventfd2", "pipe": "pipe2", "getpgrp": "getpgid",
        "time": "gettimeofday", "fork": "clone", "vfork": "clone", "chown": "fchownat",
        "lchown": "fchownat",
    }  # fmt: skip
    for name in syscalls.ALL:
        number = syscalls.number_of(name, "aarch64")
        if number is None and name != "arch_prctl":  # registers of x86
            assert syscalls.number_of(replaced[name], "aarch64") is not None, name
    arm = [number for _, number in syscalls.ALL.values() if number is not None]
    x86 = [number for number, _ in syscalls.ALL.values()]
    assert len(set(arm)) == len(arm) and len(set(x86)) == len(x86)


HEADERS = {
    0: (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), {}),
    1: (Path("/usr/include/asm-generic/unistd.h"), {"newfstatat": "fstatat"}),
}


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_those_of_the_kernels_headers(column: int) -> None:
    path, other_names = HEADERS[column]
    if not path.exists():
        pytest.skip(f"{path} is not installed")
    found: dict[str, int] = {}
    for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()):
        found.setdefault(name, int(number))
    for name, numbers in syscalls.ALL.items():
        known = found.get(other_names.get(name, name), found.get(name))
        if known is not None:  # older headers lack the newest calls
            assert numbers[column] == known, name


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.build("riscv64", "python")
    with pytest.raises(ValueError, match="profile"):
        seccomp.build("x86_64", "root")


# Rules for files


def test_a_folder_with_something_hidden_gives_way_to_its_entries(tmp_path: Path) -> None:
    for name in ("lib/os.py", "lib/json/tool.py", "lib/packages/secret.py", "other/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lib" / "way_out").symlink_to(tmp_path / "other")
    rules = landlock.expand([f"{tmp_path}/lib"], [f"{tmp_path}/lib/packages"], landlock.READ)
    assert rules == {
        f"{tmp_path}/lib": landlock.READ_DIR,
        f"{tmp_path}/lib/os.py": landlock.READ,
        f"{tmp_path}/lib/json": landlock.READ,
    }
    whole = landlock.expand([f"{tmp_path}/lib/json", "/none"], [f"{tmp_path}/lib/packages"], 4)
    assert whole == {f"{tmp_path}/lib/json": 4}


# Places


def deep_tree(root: Path, depth: int) -> None:
    """A folder in a folder, so deep that its path cannot be named."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
        os.close(here)
        here = inner
    os.close(here)


def test_a_place_is_emptied_whatever_is_in_it(tmp_path: Path) -> None:
    place, outside = tmp_path / "place", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    (outside / "keep").write_text("kept")
    deep_tree(place, 300)
    (place / "link").symlink_to(outside)
    (place / "d" / "up").symlink_to("../..")
    os.link(outside / "keep", place / "hard")
    os.mkfifo(place / "fifo")
    (place / "closed" / "inner").mkdir(parents=True)
    (place / "closed").chmod(0)
    place.chmod(0)
    assert not places.is_empty(str(place))
    places.empty(str(place))
    assert places.is_empty(str(place))
    assert os.listdir(place) == [] and (outside / "keep").read_text() == "kept"


def test_results_are_regular_files_inside_of_the_place(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "a").mkdir(parents=True)
    (place / "a" / "out").write_text("x")
    (tmp_path / "secret").write_text("s")
    (place / "link").symlink_to(tmp_path / "secret")
    (place / "way").symlink_to(tmp_path)
    os.mkfifo(place / "fifo")
    found = {
        name: places.open_result(str(place), name)
        for name in (
            "a/out",
            "./a/out",
            "link",
            "way/secret",
            "fifo",
            "a",
            "gone",
            "../secret",
            ".",
        )
    }
    assert [name for name, file in found.items() if file is not None] == ["a/out", "./a/out"]
    for file in found.values():
        if file is not None:
            os.close(file)


def test_folders_of_zygotes_that_were_killed_are_swept(tmp_path: Path) -> None:
    used, lock = places.make_folder(str(tmp_path), "grpo-")
    left, freed = places.make_folder(str(tmp_path), "grpo-")
    (Path(left) / "0").mkdir()
    (Path(left) / "0" / "file").touch()
    os.close(freed)
    (tmp_path / "other").mkdir()
    places.sweep(str(tmp_path), "grpo-")
    assert sorted(os.listdir(tmp_path)) == sorted([os.path.basename(used), "other"])
    os.close(lock)


# Control groups, on a tree that looks like the kernel's


def v2_tree(tmp_path: Path, enabled: str) -> Path:
    """A hierarchy of version 2 with a group of ours in it."""
    mount = tmp_path / "cgroup"
    group = mount / "user" / "scope"
    group.mkdir(parents=True)
    for folder in (mount, mount / "user", group):
        (folder / "cgroup.controllers").write_text("memory pids")
        (folder / "cgroup.subtree_control").write_text("")
        (folder / "cgroup.procs").write_text("")
    (mount / "user" / "cgroup.subtree_control").write_text(enabled)
    return mount


def test_a_group_is_made_where_both_controllers_were_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = v2_tree(tmp_path, "memory pids")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(cgroups, "own_groups", lambda text: {"": "/user/scope"})
    made = cgroups.make("grpo-sandbox-1-1", 512, 64, mount=mount)
    assert made.folders == (str(mount / "user" / "grpo-sandbox-1-1"),)
    folder = Path(made.folders[0])
    assert made.controllers == ("memory", "pids") and not made.refusal
    assert (folder / "memory.max").read_text() == str(512 << 20)
    assert (folder / "pids.max").read_text() == "64"
    assert (folder / "cgroup.procs").read_text() == str(os.getpid())


def test_root_makes_none_above_its_own_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = v2_tree(tmp_path, "memory pids")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(cgroups, "own_groups", lambda text: {"": "/user/scope"})
    made = cgroups.make("grpo-sandbox-1-1", 512, 64, mount=mount)
    assert made.folders == () and "no delegated group" in made.refusal


def test_version_1_is_used_at_its_root_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("memory", "pids"):
        (tmp_path / kind).mkdir()
    groups = {"memory": "/somebody", "pids": "/"}
    monkeypatch.setattr(cgroups, "own_groups", lambda text: groups)
    made = cgroups.make("grpo-sandbox-1-1", 512, 64, mount=tmp_path)
    assert made.controllers == ("pids",) and "/somebody is another manager's" in made.refusal
    assert (tmp_path / "pids" / "grpo-sandbox-1-1" / "pids.max").read_text() == "64"
    assert not (tmp_path / "memory" / "grpo-sandbox-1-1").exists()


def test_own_groups_are_read() -> None:
    text = "9:name=systemd:/\n4:memory,hugetlb:/a:b\n0::/x\n"
    expected = {"name=systemd": "/", "memory": "/a:b", "hugetlb": "/a:b", "": "/x"}
    assert cgroups.own_groups(text) == expected


@given(st.integers(0, 2**22), st.integers(0, 64), st.integers(0, 64))
def test_places_have_user_ids_of_their_own(seed: int, one: int, other: int) -> None:
    whole, part = "0 0 4294967295\n", "0 100000 65536\n"
    for maps in (whole, part):
        first = privileges.strange_uid(seed, one, maps)
        assert (first == privileges.strange_uid(seed, other, maps)) == (one == other)
    assert privileges.strange_uid(seed, one, whole) >= 1 << 30
    assert 0 < privileges.strange_uid(seed, one, part) < 65536


# What crosses


@given(st.lists(st.binary(max_size=40)), st.integers(0, 2**63), st.randoms())
def test_frames_arrive_however_they_are_cut(texts: list[bytes], nonce: int, random: Any) -> None:
    stream = b"".join(frames.encode(text, nonce) for text in texts)
    reader = frames.FrameReader(nonce, 40)
    found = []
    while stream:
        size = random.randint(1, len(stream))
        reader.feed(stream[:size])
        stream = stream[size:]
        while (frame := reader.next()) is not None:
            found.append(frame)
    assert found == texts


@given(st.binary(min_size=frames.HEADER.size))
def test_strange_bytes_are_no_frame(data: bytes) -> None:
    reader = frames.FrameReader(2**63 - 25, 1000)
    if data[4:12] == struct.pack("<Q", 2**63 - 25):
        return
    reader.feed(data)
    with pytest.raises(frames.BrokenFrame):
        reader.next()


def test_a_frame_that_is_too_large_is_refused_by_its_header() -> None:
    reader = frames.FrameReader(1, 10)
    reader.feed(frames.HEADER.pack(11, 1))
    with pytest.raises(frames.BrokenFrame, match="11 bytes"):
        reader.next()


def test_a_payload_crosses_whole() -> None:
    payload = wire.Payload(
        "script", b"x" * 70_000, "g", 2**63 - 1, 5, ("a", "b"), {"A": "1"},
        {"f": b"\0\xff", "d/e": b""}, ("f",),
    )  # fmt: skip
    text = wire.encode_payload(payload)
    file = memory_file("payload", text)
    assert wire.read_payload(file) == payload
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, len(text) - 1)
    with pytest.raises(EOFError):
        wire.read_payload(file)
    os.close(file)
    order = wire.make_order("python", JobLimits(**asdict(Limits())), ("a",))
    assert wire.decode_order(wire.encode_order(order)) == order


REPORT = {"cause": "", "seconds": 1.0, "cpu_seconds": 0.5, "memory_mb": 9.0}


@pytest.mark.parametrize(
    ("status", "cause", "cpu", "expected"),
    [
        (0, "", 0.5, Status.FINISHED),
        (3 << 8, "", 0.5, Status.FINISHED),
        (9, "wall", 0.5, Status.TIMEOUT),
        (0, "wall", 0.5, Status.TIMEOUT),  # it ended while it was being killed
        (9, "output", 0.5, Status.OUTPUT),
        (0, "output", 0.5, Status.OUTPUT),
        (int(OUT_OF_MEMORY), "", 0.5, Status.MEMORY),
        (int(signal.SIGXCPU), "", 0.5, Status.TIMEOUT),
        (9, "", 7.0, Status.TIMEOUT),  # the hard limit on processor time
        (9, "", 0.5, Status.KILLED),
        (int(signal.SIGSEGV) | 0x80, "", 0.5, Status.KILLED),
        (0, "failed: no disk", 0.5, Status.ERROR),
    ],
)
def test_how_a_job_ended(status: int, cause: str, cpu: float, expected: Status) -> None:
    report = {**REPORT, "status": status, "cpu_seconds": cpu}
    reply = read_report(report, cause, Limits(), stdout=b"o", stderr=b"e", files={})
    assert reply.status is expected
    assert (reply.stdout, reply.stderr) == (b"o", b"e")
    assert bool(reply.detail) == (reply.exit_code != 0)


def test_no_report_is_our_error() -> None:
    reply = read_report({"lost": "gone"}, "", Limits(), stdout=b"", stderr=b"", files={})
    assert reply.status is Status.ERROR and reply.detail == "gone"


# Names


def test_every_layer_is_tried_or_inherited_and_has_a_cure() -> None:
    tried = {layer for layers in STOPPED_BY.values() for layer in layers}
    demanded = {layer for layers in DEMANDED.values() for layer in layers}
    assert tried <= set(CURES) and demanded <= set(CURES)
    assert set(CURES) - tried == {"cgroup"}  # looked up in /proc instead


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "hard"}, "sandbox level 'hard'"),
        ({"allow_weaker": ["landlok"]}, "Did you mean 'landlock'"),
        ({"backend": "zygot"}, "Did you mean 'zygote'"),
        ({"backend": "no_such_module:f"}, "no_such_module"),
        ({"backend": "os:no_such_function"}, "no_such_function"),
        ({"options": {"disk": 5}}, "disk"),
        ({"options": {"without": ["walls"]}}, "walls"),
        ({"backend": "sandbox_fusion"}, "url"),
    ],
)
def test_names_that_do_not_exist_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_sandbox(**arguments)
