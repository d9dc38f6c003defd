"""Many calls leave nothing behind."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from grpo_core.testing.answers import ask
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped, resident_mb
from grpo_core.types import Json, Sample

MAX_GROWTH_MB = 16.0
MAX_GROWTH_KB = 64.0  # per call, where calls are few; counts from _NOISE_MB on
_NOISE_MB = 4.0
MAX_DESCRIPTORS = 16
MAX_CHILDREN = 4
_CALLS = 2000
_SECONDS = 6.0


def check_memory(bench: Bench) -> Mapping[str, Json]:
    """Memory, open files and child processes, measured once caches are warm.

    A leak goes on: growth counts only if the second half of the calls grew, too.
    """
    samples = bench.safe_samples
    if not samples or not Path("/proc/self/statm").exists():
        raise CheckSkipped("no example gets an answer, or the system does not tell")
    _call(bench, samples, 0, _CALLS // 8, _SECONDS / 4)
    start, files, children = resident_mb(), _descriptors(), _children()
    first = _call(bench, samples, 1, _CALLS // 2, _SECONDS / 2)
    middle = resident_mb()
    second = _call(bench, samples, 2, _CALLS // 2, _SECONDS / 2)
    growth, late = resident_mb() - start, resident_mb() - middle
    more_files, more_children = _descriptors() - files, _children() - children
    evidence: dict[str, Json] = {
        "calls": first + second,
        "growth_mb": round(growth, 2),
        "descriptors": more_files,
        "processes": more_children,
    }
    is_leak = growth > MAX_GROWTH_MB and late > growth / 4
    if is_leak or (late > _NOISE_MB and late * 1024 > MAX_GROWTH_KB * second):
        raise CheckFailed(
            f"{first + second} calls took {growth:.0f} MB, {late:.0f} of them in the second half; "
            f"at most {MAX_GROWTH_MB:.0f} MB, or {MAX_GROWTH_KB:.0f} kB a call, may stay. Bound "
            "what is kept between calls.",
            **evidence,
        )
    if more_files > MAX_DESCRIPTORS:
        raise CheckFailed(f"{first + second} calls left {more_files} files open", **evidence)
    if more_children > MAX_CHILDREN:
        raise CheckFailed(f"{first + second} calls left {more_children} processes", **evidence)
    return evidence


def _call(bench: Bench, samples: list[Sample], part: int, most: int, seconds: float) -> int:
    """Call again and again with texts that were not seen before; returns how often."""
    end = time.monotonic() + seconds
    count = 0
    while count < most and (time.monotonic() < end or count < len(samples)):
        sample = samples[count % len(samples)]
        text = f"{sample.completion}\n<!-- {part}.{count} -->" if count % 2 else sample.completion
        bench.say(text)
        ask(bench.instance, [replace(sample, completion=text)])
        count += 1
    return count


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _children() -> int:
    tasks = Path("/proc/self/task").glob("*/children")
    return sum(len(file.read_text().split()) for file in tasks)
