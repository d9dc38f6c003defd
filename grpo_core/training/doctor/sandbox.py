"""Which isolation layers this machine offers to worker processes, by trying each.

What is offered is not what is used: `grpo_core.verification.isolation` says what verifier workers
are held by today, and `containment.py` measures it on a living one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from grpo_core.errors import GrpoError
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, skipped, warning
from grpo_core.verification.isolation import IS_LINUX

_PROBE = Path(__file__).with_name("layers_probe.py")
_SECONDS = 120.0

_NAMESPACES = (
    "allow unprivileged user namespaces (sysctl user.max_user_namespaces > 0, "
    "kernel.unprivileged_userns_clone = 1, kernel.apparmor_restrict_unprivileged_userns = 0; in a "
    "container a seccomp profile that allows unshare)"
)
CURES: Mapping[str, str] = {
    "user namespace": _NAMESPACES,
    "network namespace": _NAMESPACES,
    "mount namespace": _NAMESPACES,
    "process namespace": _NAMESPACES,
    "no_new_privs": "use a kernel of 3.5 or later",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or ARM64",
    "landlock": "use a kernel of 5.13 or later with 'landlock' in its lsm= list; in a container a "
    "seccomp profile that allows it",
    "memory limit": "use Linux on real or virtual hardware; some emulated kernels ignore RLIMIT_AS",
    "file size limit": "use Linux on real or virtual hardware",
    "process limit": "run as another user than root, who is exempt from it",
    "cgroup": "start in a cgroup of your own with memory and pids delegated: systemd-run --user "
    "--scope -p Delegate=yes grpo ...; in a container a writable cgroup tree",
}


def measure_layers() -> dict[str, tuple[bool, str]]:
    """Layer -> whether its effect was seen, and what was; tried in processes of their own.

    Raises:
        GrpoError: if the probe cannot be run.
    """
    command = [sys.executable, "-I", str(_PROBE)]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        return {name: (works, text) for name, (works, text) in json.loads(result.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise GrpoError(f"the isolation layers could not be tried: {error}") from error


def check_layers(bench: Bench) -> Iterator[Finding]:
    """What worker processes could be put into here.

    Raises:
        GrpoError: as `measure_layers`.
    """
    if not IS_LINUX:
        yield skipped("sandbox layers", f"only Linux has them; this is {sys.platform}")
        return
    layers = measure_layers()
    there = [name for name, (works, _) in layers.items() if works]
    missing = {name: text for name, (works, text) in layers.items() if not works}
    found = f"{len(there)} of {len(layers)} were seen to work: {', '.join(there) or 'none'}"
    numbers = {name: works for name, (works, _) in layers.items()}
    if not missing:
        yield ok("sandbox layers", found, layers=numbers)
        return
    found += "; not: " + ", ".join(f"{name} ({text})" for name, text in missing.items())
    causes: dict[str, list[str]] = {}
    for name in missing:
        causes.setdefault(CURES[name], []).append(name)
    cure = "; ".join(f"for {', '.join(names)}: {cure}" for cure, names in causes.items())
    yield warning("sandbox layers", found, cure, layers=numbers)


CHECKS = (Check("sandbox layers", check_layers),)
