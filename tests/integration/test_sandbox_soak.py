"""Thousands of hostile jobs in one run: nothing grows, nothing is left, all are answered."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox_attacks
from grpo_verifiers.sandbox import Limits, ScriptJob, Status
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox
from sandbox_world import make_world, open_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

_IDLE = 2 + 4  # the zygote, what stands by it, and its spares
LIMITS = Limits(wall_seconds=0.2, memory_mb=128, output_bytes=50_000, file_mb=2, processes=32)
# Those that take their whole time would make the run an hour long; every 25th job is one of them.
LONG = ("loop", "sleep", "many files", "deep folders", "stopped", "recursion", "closed descriptors",
        "regular expression", "large number", "loop that catches all", "memory by and by",
        "shared mapping")  # fmt: skip
ROUND = [
    program
    for kind in (
        sandbox_attacks.READS, sandbox_attacks.WRITES, sandbox_attacks.REACHES,
        sandbox_attacks.HARMS, sandbox_attacks.EXHAUSTS,
    )
    for name, program in kind.items()
    if name not in LONG
]  # fmt: skip


def job_number(number: int) -> str:
    if number % 25 == 0:
        return sandbox_attacks.EXHAUSTS[LONG[number // 25 % len(LONG)]]
    return ROUND[number % len(ROUND)]


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in family(int(child)))]


def num_descriptors(pid: int) -> int:
    """Open files; rulesets of Landlock belong to places, whose number has a limit."""
    links = [os.readlink(link.path) for link in os.scandir(f"/proc/{pid}/fd")]
    return len([link for link in links if "landlock" not in link])


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def usage(sandbox: ZygoteSandbox) -> dict[str, float]:
    """What is in use, here and in the zygote, when nothing runs."""
    gc.collect()
    until = time.monotonic() + 30
    while len(family(sandbox.pid)) > _IDLE and time.monotonic() < until:
        time.sleep(0.05)  # places are still being emptied
    members = family(sandbox.pid)[:2]  # the rest are spares, which come and go
    return {
        "processes": max(0, len(family(sandbox.pid)) - _IDLE),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "zygote's descriptors": sum(map(num_descriptors, members)),
        "memory": resident_mb(os.getpid()),
        "zygote's memory": sum(map(resident_mb, members)),
    }


def soak(count: int, folder: Path) -> None:
    sandbox = open_way("all layers")
    assert isinstance(sandbox, ZygoteSandbox)
    with make_world(folder) as world, ThreadPoolExecutor(2) as pool:
        state = world.state()

        def run(number: int) -> Status:
            source = world.aim(job_number(number))
            return sandbox.run(ScriptJob(source=source, limits=LIMITS)).status

        warm = Counter(pool.map(run, range(len(ROUND))))
        before, first = usage(sandbox), sandbox.pid
        statuses: Counter[Status] = Counter()
        for start in range(0, count, 500):  # a future for each job would look like a leak
            statuses.update(pool.map(run, range(start, min(start + 500, count))))
        after = usage(sandbox)
        assert world.state() == state
    print({str(status): number for status, number in statuses.items()}, before, after)
    assert statuses[Status.ERROR] == warm[Status.ERROR] == 0 and sum(statuses.values()) == count
    assert sandbox.pid == first  # never replaced
    for name in ("processes", "descriptors", "zygote's descriptors"):
        assert after[name] <= before[name], name
    for name in ("memory", "zygote's memory"):
        assert after[name] < before[name] + 8, name
    places = Path(f"/proc/{family(first)[1]}/root/box")
    assert all(os.listdir(place) == [] for place in places.iterdir())
    sandbox.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_hostile_jobs_leave_no_trace(tmp_path: Path) -> None:
    """`GRPO_SOAK_JOBS=10000` makes it the long run."""
    for path in (tmp_path, *tmp_path.parents[:3]):
        path.chmod(0o755)
    soak(int(os.environ.get("GRPO_SOAK_JOBS", "1000")), tmp_path)
