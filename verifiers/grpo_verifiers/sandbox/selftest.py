"""The self-test of a new zygote: what holds, as far as trying it out can tell.

A layer counts as proved when everything that it alone can stop was stopped. A layer that is
demanded and missing, or an attempt that succeeds against a layer in use, makes the sandbox
unavailable, unless the user has named that layer as one that may be weaker.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_verifiers.sandbox.api import GuestJob, Layer, Level, Limits, SandboxUnavailable, Status
from grpo_verifiers.sandbox.link import ENVIRONMENT, ZygoteLink
from grpo_verifiers.sandbox.zygote_sandbox import Proof, ZygoteSandbox

DEMANDED: Mapping[Level, tuple[str, ...]] = {
    Level.PROCESS: ("descriptors", "environment", "rlimits"),
    Level.OS: ("landlock", "seccomp", "privileges"),
    Level.NS: ("namespaces", "files"),
    Level.CGROUP: ("cgroup",),
}
# What was tried -> the layers that can stop it, each by itself.
STOPPED_BY: Mapping[str, tuple[str, ...]] = {
    "read a file outside": ("landlock", "files"),
    "write a file outside": ("landlock", "files"),
    "list the root": ("landlock",),
    "see names outside": ("files",),
    "connect to a port": ("seccomp", "namespaces"),
    "connect to an abstract socket": ("seccomp", "namespaces"),
    "send to an abstract socket": ("seccomp", "namespaces"),
    "fork": ("seccomp",),
    "execute": ("seccomp", "landlock"),
    "signal the parent": ("seccomp",),
    "signal the caller": ("seccomp", "namespaces"),
    "read the parent's environment": ("landlock",),
    "read the caller's environment": ("landlock", "namespaces", "files"),
    "make an unlisted system call": ("seccomp",),
    "allocate past the limit": ("rlimits",),
    "write past the limit": ("rlimits",),
    "open a file without rights": ("privileges",),
    "find inherited descriptors": ("descriptors",),
    "find inherited variables": ("environment",),
    "be the same user": ("identity",),
    "see the machine's processes": ("namespaces",),
    "start threads without end": ("processes",),
}
_NAMESPACES = (
    "allow unprivileged user namespaces (sysctl user.max_user_namespaces > 0, "
    "kernel.unprivileged_userns_clone = 1, kernel.apparmor_restrict_unprivileged_userns = 0; in a "
    "container a seccomp profile that allows unshare), or install bubblewrap and use "
    "backend = 'bubblewrap'"
)
CURES: Mapping[str, str] = {
    "landlock": "use a kernel of 5.13 or later with 'landlock' in its lsm= list (in a container a "
    "seccomp profile that allows its system calls), or backend = 'sandbox_fusion'",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or arm64",
    "privileges": "use a kernel of 3.5 or later",
    "rlimits": "use Linux on real or virtual hardware; some emulated kernels ignore limits",
    "namespaces": _NAMESPACES,
    "files": _NAMESPACES,
    "identity": "run as root in a container whose interpreter others can read; not needed, "
    "capabilities are dropped anyway",
    "processes": "run as an ordinary user, or as root where namespaces or an identity for each job "
    "can be had",
    "cgroup": "start in a control group of your own: systemd-run --user --scope -p Delegate=yes "
    "grpo ..., or name a writable group of version 2 in GRPO_SANDBOX_CGROUP",
    "descriptors": "please report this",
    "environment": "please report this",
}
LAYERS = tuple(CURES)
_LIMITS = Limits(wall_seconds=20.0, memory_mb=256, file_mb=2)
_ENVIRONMENT = {*ENVIRONMENT, "HOME", "TMPDIR", "LC_CTYPE"}


def demanded(level: Level, allow_weaker: Collection[str]) -> tuple[str, ...]:
    """The layers that a level demands, without those that may be weaker."""
    levels = list(Level)
    names = [name for one in levels[: levels.index(level) + 1] for name in DEMANDED[one]]
    return tuple(name for name in names if name not in allow_weaker)


def prove(
    sandbox: ZygoteSandbox, link: ZygoteLink, level: Level, allow_weaker: Collection[str]
) -> Proof:
    """Try out a new zygote.

    Raises:
        SandboxUnavailable: if it is weaker than demanded.
    """
    results = try_out(sandbox, link)
    layers = tuple(_layer(name, link, results) for name in LAYERS)
    check(layers, level, allow_weaker)
    return Proof(layers, results)


def check(
    layers: Collection[Layer],
    level: Level,
    allow_weaker: Collection[str],
) -> None:
    """Compare what was found with what is demanded.

    Raises:
        SandboxUnavailable: naming all that is missing, and the cures.
    """
    needed = demanded(level, allow_weaker)
    weak = [layer for layer in layers if layer.name in needed and not (layer.used and layer.proved)]
    # A layer that is in use, though not demanded, and does not hold is worth an error, too: what
    # is reported as its effect would not be true.
    weak += [
        layer
        for layer in layers
        if layer.used and not layer.proved and layer not in weak and layer.name not in allow_weaker
    ]
    if not weak:
        return
    missing = "; ".join(f"{layer.name} ({layer.found})" for layer in weak)
    cures = "; ".join(dict.fromkeys(f"for {layer.name}: {CURES[layer.name]}" for layer in weak))
    names = ", ".join(f'"{layer.name}"' for layer in weak)
    raise SandboxUnavailable(
        f"the sandbox does not reach level '{level}': {missing}. To do: {cures}. Or accept weaker "
        f"isolation by name: allow_weaker = [{names}]. See 'grpo sandbox doctor'."
    )


def try_out(sandbox: ZygoteSandbox, link: ZygoteLink) -> dict[str, tuple[bool, str]]:
    """What was tried -> whether it was stopped, and what was seen.

    Raises:
        SandboxUnavailable: if the self-test does not get to its end.
    """
    with _bait() as facts:
        # One more than there may be; few where nothing counts them anyway.
        facts["max_processes"] = link.max_processes + _LIMITS.processes + 1
        job = GuestJob(
            guest="grpo_sandbox_probes", payload=json.dumps(facts).encode(), limits=_LIMITS
        )
        results: dict[str, tuple[bool, str]] = {}
        with sandbox.start_on(link, job) as guest:
            while (frame := guest.receive()) is not None:
                name, held, seen = json.loads(frame)
                results[name] = (bool(held), str(seen))
            reply = guest.close()
    tried = set(STOPPED_BY) - {"execute"}
    if not tried <= set(results):
        why = reply.stderr.decode("utf-8", "replace")[-400:] or reply.detail
        raise SandboxUnavailable(f"the sandbox's self-test ended early ({reply.status}): {why}.")
    executed = reply.status is Status.FINISHED and reply.exit_code == 0
    results.setdefault("execute", (not executed, "a program was executed"))
    return results


def _layer(name: str, link: ZygoteLink, results: Mapping[str, tuple[bool, str]]) -> Layer:
    """A layer as set up, and as the attempts against it went."""
    failed = [
        f"{attempt}: {results[attempt][1]}"
        for attempt, layers in STOPPED_BY.items()
        if name in layers and not results[attempt][0]
    ]
    if name in ("descriptors", "environment"):
        used, found = True, "nothing is inherited"
    else:
        used = name in link.used
        found = link.used.get(name) or link.refused.get(name, "not tried")
    if name == "cgroup" and used:
        failed += _cgroup_failures(link)
    if used and failed:
        return Layer(name, True, False, f"did not hold: {', '.join(failed)}", CURES[name])
    return Layer(name, used, used, found, "" if used else CURES[name])


def _cgroup_failures(link: ZygoteLink) -> list[str]:
    """Whether the kernel says that the zygote is in a group of ours."""
    text = Path(f"/proc/{link.pid}/cgroup").read_text()
    return [] if "grpo-sandbox-" in text else ["the zygote is in no group of its own"]


@contextlib.contextmanager
def _bait() -> Iterator[dict[str, Any]]:
    """A file, a port and a socket that a guest must not reach."""
    name = f"grpo-sandbox-bait-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="grpo-bait-"))
        os.chmod(folder, 0o777)
        canary = Path(folder, "canary")
        canary.write_text("secret")
        canary.chmod(0o644)
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        for one in (listener, datagrams):
            one.bind(f"\0{name}-{id(listener):x}-{one.type}")
        listener.listen()
        yield {
            "canary": str(canary),
            "port": port,
            "abstract": f"{name}-{id(listener):x}-{listener.type}",
            "caller": os.getpid(),
            "uid": os.getuid(),
            "memory_mb": _LIMITS.memory_mb,
            "file_mb": _LIMITS.file_mb,
            "environment": sorted(_ENVIRONMENT),
        }
