"""Does the verifier pool contain a verifier that misbehaves, and by what is a worker held?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from grpo_core.plugin_manager import PluginSources
from grpo_core.training.doctor import misbehaving
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, problem, skipped
from grpo_core.types import Sample, Status
from grpo_core.verification.pool import VerifierPool, VerifierSpec

_DEADLINE = 1.0  # seconds; a real one would make the doctor's patients wait
_LATE = 5.0  # seconds after the deadline by which a hanging call must be over
_EXPECTED = {"hang": Status.TIMEOUT, "memory": Status.ERROR, "crash": Status.ERROR}
_NAMESPACES = ("user", "net", "mnt", "pid", "ipc", "uts")


def check_containment(bench: Bench) -> Iterator[Finding]:
    """Have a verifier hang, eat memory, and crash; each must cost one verdict and no more.

    Raises:
        VerifierError: if no process can be started.
    """
    sources = PluginSources((str(Path(misbehaving.__file__)),), use_entry_points=False)
    spec = VerifierSpec(misbehaving.NAME)
    memory_mb = min(bench.config.verification.memory_mb, 1024)
    seen, wrong, seconds = [], [], {}
    with VerifierPool([spec], sources, workers=1, deadline=_DEADLINE, memory_mb=memory_mb) as pool:
        for mood, expected in _EXPECTED.items():
            started = time.perf_counter()
            first, second = pool.verify(
                spec.name, [Sample("", text, None) for text in (mood, "behave")]
            )
            seconds[mood] = time.perf_counter() - started
            if first.status is not expected or second.status is not Status.CORRECT:
                wrong.append(f"{mood}: {first.status}, then {second.status} ({first.reason})")
            elif seconds[mood] > _DEADLINE + _LATE:
                wrong.append(f"{mood}: over only after {seconds[mood]:.1f} s")
            else:
                seen.append(f"{mood} gave '{first.status}' after {seconds[mood]:.2f} s")
        kills = pool.stats.kills
        held = worker_bounds(pool.pids[-1])
    found = f"deadline {_DEADLINE:g} s: {', '.join(seen) or 'nothing held'}; the next call was fine"
    if wrong or not kills:
        found = f"{found if seen else ''} {'; '.join(wrong)}; {kills} kills".strip()
        yield problem("containment", found, _CURE, seconds=seconds, kills=kills)
    else:
        yield ok("containment", found, seconds=seconds, kills=kills)
    if held is None:
        yield skipped("worker bounds", "they are read from /proc, which does not tell")
        return
    yield ok("worker bounds", describe_bounds(held), **held)


def worker_bounds(pid: int) -> dict[str, object] | None:
    """What a living process is held by, as the kernel tells it; None where it does not.

    Landlock is left out: the kernel does not show it.
    """
    try:
        return _read_bounds(pid)
    except OSError:  # no Linux, or the process has just been replaced
        return None


def _read_bounds(pid: int) -> dict[str, object]:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    limits = {
        line[:26].strip(): line[26:47].strip()
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    }
    return {
        "own_namespaces": [
            name
            for name in _NAMESPACES
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}")
        ],
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": status.get("Seccomp") == "2",
        "own_cgroup": Path(f"/proc/{pid}/cgroup").read_text()
        != Path("/proc/self/cgroup").read_text(),
        "memory_limited": limits.get("Max address space") != "unlimited",
        "own_process_group": os.getpgid(pid) == pid,
    }


def describe_bounds(held: dict[str, object]) -> str:
    """What holds a worker, what does not, and what follows."""
    names = {
        "own_process_group": "a process group that is killed whole",
        "memory_limited": "a limit of its memory",
        "no_new_privs": "no_new_privs",
        "seccomp": "a seccomp filter",
        "own_cgroup": "a cgroup of its own",
    }
    there = [text for key, text in names.items() if held[key]]
    there += [f"{name} namespace" for name in _NAMESPACES if name in _list(held)]
    absent = [text for key, text in names.items() if not held[key]]
    absent += [f"{name} namespace" for name in _NAMESPACES if name not in _list(held)]
    text = f"a verifier worker has {', '.join(there) or 'no bounds'}"
    if absent:
        text += f"; it has no {', '.join(a.removeprefix('a ') for a in absent)}. "
        text += "So verifiers have your rights over files and network: use those you trust, and "
        text += "run none that executes completions as code outside of a sandbox of its own"
    return text


def _list(held: dict[str, object]) -> list[object]:
    found = held["own_namespaces"]
    return found if isinstance(found, list) else []


_CURE = (
    "Verdicts would be lost or the run would hang. If this machine is not out of memory or "
    "processes, please report it with this output."
)
CHECKS = (Check("containment", check_containment),)
