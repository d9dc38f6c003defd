"""What a process measures of itself and of the machine while it trains, one JSON line a step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_CLOCK = os.sysconf("SC_CLK_TCK")
_CANARY_SIZE = 2048  # a product of 17 GFLOP: long enough to be hit by whatever else is running


@dataclass
class StepRecord:
    """One training step of one side.

    Attributes:
        seconds: wall time of the whole step. phases: wall seconds of its parts, by name.
        completion_tokens, prompt_tokens: of the step's samples; every prompt counts once.
        longest: tokens of the longest completion.
        trained_tokens: completion tokens that were part of the backward pass.
        positions: rows times columns that went through the model, by phase ("sample", "train"),
            padding and repetitions included.
        peak_mb: most memory that the process ever held. grown_mb: most that it has held since its
            first step began, beyond what it held then; None where the system does not tell.
        workers_mb: of its children, now; what they share counts once.
        canary_ms: a fixed matrix product before and after the step.
        foreign: processor seconds that others took, over the step's wall seconds.
    """

    step: int
    seconds: float
    phases: dict[str, float]
    completion_tokens: int
    prompt_tokens: int
    longest: int
    trained_tokens: float
    positions: dict[str, int]
    peak_mb: float
    grown_mb: float | None
    workers_mb: float
    canary_ms: tuple[float, float]
    foreign: float
    extra: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, line: str) -> StepRecord:
        """The record of one line."""
        return cls(**json.loads(line))


class Meter:
    """Times the steps of a process and appends a `StepRecord` for each to a file."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self.positions = {"sample": 0, "train": 0}
        self._canary = canary_ms()
        self._peak, self._base = peak_mb(), resident_mb()
        self._forgets = forget_peak()
        self.restart()

    def restart(self) -> None:
        """A step begins now."""
        self.positions.update(sample=0, train=0)
        self._busy, self._own = machine_seconds(), own_seconds()
        self._start = time.perf_counter()

    def finish(self, step: int, phases: Mapping[str, float], **counts: Any) -> None:
        """The step is over: write it down, and begin another."""
        seconds = time.perf_counter() - self._start
        own = own_seconds() - self._own
        foreign = max(0.0, machine_seconds() - self._busy - own) / seconds
        before, self._canary = self._canary, canary_ms()
        record = StepRecord(
            step=step,
            seconds=seconds,
            phases=dict(phases),
            positions=dict(self.positions),
            peak_mb=max(self._peak, peak_mb()),
            grown_mb=peak_mb() - self._base if self._forgets else None,
            workers_mb=workers_mb(),
            canary_ms=(before, self._canary),
            foreign=foreign,
            **counts,
        )
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        self.restart()

    @contextmanager
    def counting_positions(self) -> Iterator[None]:
        """Count what is looked up in embeddings; with a gradient it is training, else sampling."""
        import torch

        functional: Any = torch.nn.functional
        original = functional.embedding

        def counted(ids: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
            phase = "train" if torch.is_grad_enabled() else "sample"
            self.positions[phase] += ids.numel()
            return original(ids, *arguments, **keywords)

        functional.embedding = counted
        try:
            yield
        finally:
            functional.embedding = original


def canary_ms() -> float:
    """Milliseconds of a fixed matrix product, the median of five."""
    import torch

    size = _CANARY_SIZE
    one = torch.ones(size, size, dtype=torch.bfloat16)
    for _ in range(3):  # threads start up, caches fill
        torch.mm(one, one)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(one, one)
        seconds.append(time.perf_counter() - start)
    return 1e3 * sorted(seconds)[2]


def peak_mb() -> float:
    """Most memory that this process has held, so far or since `forget_peak`."""
    return _status_mb("VmHWM:")


def resident_mb() -> float:
    """Memory that this process holds."""
    return _status_mb("VmRSS:")


def forget_peak() -> bool:
    """Let `peak_mb` begin anew; False where the kernel does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_mb(name: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) / 1024


def workers_mb() -> float:
    """Memory of all descendants of this process; a page that several of them share counts once."""
    total = 0
    for pid in _descendants():
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended, or is confined so that nobody may look
        total += int(rollup.partition("Pss:")[2].split()[0])
    return total / 1024


def own_seconds() -> float:
    """Processor seconds of this process and its living descendants."""
    return time.process_time() + sum(map(_process_seconds, _descendants()))


def machine_seconds() -> float:
    """Processor seconds of everything on this machine."""
    user, nice, system, _, _, irq, softirq, steal = _fields("/proc/stat")[1:9]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / _CLOCK


def _descendants() -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, queue = [], [os.getpid()]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def _process_seconds(pid: int) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _CLOCK


def _fields(path: str) -> list[str]:
    return Path(path).read_text().split("\n", 1)[0].split()
