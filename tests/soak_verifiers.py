"""Many hostile verifications in one run, and what they leave behind.

    python tests/soak_verifiers.py [--count 10000] [--json]

Math bombs, hostile programs, and verifiers that hang, crash and eat memory go through one pool.
Before, in between and after, the memory of its processes, their number, open descriptors and files
in the temporary folder are counted; the last tenth of the run is compared with the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in (".", "plugins", "verifiers", "tasks", "tests")]

from grpo_core.plugin_manager import PluginSources  # noqa: E402
from grpo_core.types import Sample  # noqa: E402
from grpo_core.verification.pool import VerifierPool, VerifierSpec  # noqa: E402

HOSTILE = ROOT / "tests" / "integration" / "hostile_verifiers.py"
MATH_BOMBS = (
    "9^{9^{9^9}}", "9**9**9", "100000000!", "9!!!!!!!!", "(x+1)^{5000000}", "1/(9^{9^9})",
    r"\binom{10^9}{5\cdot 10^8}", "1e999999999", r"\frac{" * 500, "(" * 5000, "9" * 100_000,
    r"\sin(" * 200 + "x" + ")" * 200, r"\sqrt{" * 300 + "2" + "}" * 300, "x+" * 20_000 + "x",
    "{1,2," * 2000, "10^{-10^{9}}", r"\prod_{k=1}^{10^{12}} k", "a" * 1_000_000,
)  # fmt: skip
PROGRAMS = (
    "while True: pass",
    "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "import os\nwhile True: os.fork()",
    "import os\nos._exit(0)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "print('x' * (1 << 26))",
    "def add(a, b):\n    return add(a, b)",
    "import tempfile\nkept = [tempfile.mkdtemp() for _ in range(100)]\ndef add(a, b): return 0",
    "import socket\ns = socket.socket()\ns.connect(('127.0.0.1', 80))",
    "import threading\n[threading.Thread(target=print).start() for _ in range(1000)]",
    "open('/tmp/left-behind', 'w').write('x')",
    "import ctypes\nctypes.string_at(0)",
    "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)",
    "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    "import os\n[os.open('/dev/null', 0) for _ in range(10**6)]",
    "def add(a, b):\n    return 10 ** 10 ** 8",
)
MOODS = ("raises", "exits_hard", "segfaults", "hangs", "raises_memory_error", "good")
REFERENCE = {"tests": "assert add(1, 2) == 3", "entry_point": "add"}
SLOWEST = 0.5  # seconds a program may run here; most of the time goes into loops that never end


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the run holds at a moment."""

    processes: int
    memory_mb: float
    trainer_mb: float
    descriptors: int
    threads: int
    files: int


def measure(pool: VerifierPool) -> Footprint:
    """Count processes below this one, their memory, and what this one holds open."""
    family = list(_descendants(os.getpid()))
    return Footprint(
        processes=len(family),
        memory_mb=sum(map(_private_mb, family)),
        trainer_mb=_private_mb(os.getpid()),
        descriptors=len(os.listdir("/proc/self/fd")) + sum(map(_descriptors, pool.pids)),
        threads=threading.active_count(),
        files=sum(1 for _ in os.scandir(tempfile.gettempdir())),
    )


def _descendants(pid: int) -> Iterator[int]:
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from _descendants(child)


def _private_mb(pid: int) -> float:
    """Memory that belongs to this process alone; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def hostile_jobs() -> Iterator[tuple[str, Sample]]:
    """(verifier, sample) without end: all kinds in turn, math most often, for it is the fastest."""
    bombs = itertools.cycle(MATH_BOMBS)
    programs = itertools.cycle(PROGRAMS)
    moods = itertools.cycle(MOODS)
    for number in itertools.count():
        kind = number % 20
        if kind == 0:
            yield next(moods), Sample("?", f"no {number}", "yes")
        elif kind in (5, 10, 15):
            program = f"{next(programs)}\n# {number}"
            yield "code", Sample("?", f"```python\n{program}\n```", REFERENCE)
        else:
            bomb = next(bombs)
            yield "math", Sample("?", f"so {number}: \\boxed{{{bomb}}}", "7")


@contextmanager
def private_tmp() -> Iterator[None]:
    """A temporary folder of the run's own, so that what is left in it is the run's."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = None
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before


def soak(count: int) -> dict[str, object]:
    """Run `count` hostile verifications, with looks at the footprint at every twentieth."""
    verifiers = [
        VerifierSpec("math"),
        VerifierSpec("code", {"timeout": SLOWEST, "memory_mb": 256}),
        *(VerifierSpec(mood, deadline=0.3) for mood in MOODS),
    ]
    sources = PluginSources((str(HOSTILE),))
    statuses: Counter[str] = Counter()
    looks = []
    started = time.perf_counter()
    with private_tmp(), VerifierPool(verifiers, sources, workers=2) as pool:
        jobs = hostile_jobs()
        size = max(count // 20, 1)
        while sum(statuses.values()) < count:
            futures = [
                (name, pool.submit(name, sample)) for name, sample in itertools.islice(jobs, size)
            ]
            for name, future in futures:
                verdict = future.result()
                assert not verdict.is_correct, (name, verdict)
                statuses[f"{name} {verdict.status}"] += 1
            looks.append(measure(pool))
        kills, restarts = pool.stats.kills, pool.stats.restarts
        zygotes = pool.stats.zygote_restarts
    return {
        "count": sum(statuses.values()),
        "seconds": time.perf_counter() - started,
        "statuses": dict(sorted(statuses.items())),
        "kills": kills,
        "restarts": restarts,
        "zygote_restarts": zygotes,
        "early": asdict(looks[min(1, len(looks) - 1)]),
        "late": asdict(looks[-1]),
        "processes_left": len(list(_descendants(os.getpid()))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = soak(arguments.count)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
