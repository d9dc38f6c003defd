"""What `grpo_step.py` prints."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from step.probe import StepRecord
from step.results import Ratio, Summary, is_noisy, measured_phases
from step.roofline import PHASES, Bound, Machine

_COLUMNS = {
    "sample": ("sample",),
    "verify": ("verify",),
    "log-probs": ("logprobs",),
    "forward + backward": ("forward", "backward", "forward_backward", "train"),
    "optimiser": ("optimizer",),
    "hand-over": ("hand_over",),
    "rest": ("rest",),
}


def describe_machine() -> str:
    """What the numbers were made on."""
    names = ("torch", "transformers", "trl", "grpo-core")
    packages = ", ".join(f"{name} {_version(name)}" for name in names)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return f"{system}; Python {platform.python_version()}, {packages}; load average {load}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, its first `left` columns aligned to the left."""
    marks = ["---" if at < left else "---:" for at in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


def step_table(summaries: Mapping[str, Summary], ratios: Mapping[str, Ratio]) -> str:
    """Each side's step, and how many times as long as ours it takes."""
    head = ["side", "step s (least to most)", "times ours", "tokens", "tokens/s",
            "useful: sample", "train", "peak MB", "workers MB", "warm-up s", "noisy"]  # fmt: skip
    rows = [
        [
            name,
            f"{found.seconds:.2f} ({found.fastest:.2f} to {found.slowest:.2f})",
            str(ratios[name]) if name in ratios else "",
            f"{found.completion_tokens:,.0f} (longest {found.longest:.0f})",
            f"{found.tokens_per_second:,.0f}",
            _share(found.useful_sample),
            _share(found.useful_train),
            f"{found.peak_mb:,.0f}",
            f"{found.workers_mb:,.0f}",
            f"{found.warm_up:.2f}",
            f"{found.noisy} of {found.steps}",
        ]
        for name, found in summaries.items()
    ]
    return table(head, rows)


def phase_table(summaries: Mapping[str, Summary]) -> str:
    """Seconds of each side's phases."""
    rows = []
    for name, found in summaries.items():
        cells = []
        for parts in _COLUMNS.values():
            seconds = [found.phases[part] for part in parts if part in found.phases]
            cells.append(" + ".join(f"{value:.2f}" for value in seconds))
        rows.append([name, *cells, f"{found.seconds:.2f}"])
    return table(["seconds", *_COLUMNS, "step"], rows)


def roofline_table(
    bounds: Mapping[str, Mapping[str, Bound]], summaries: Mapping[str, Summary]
) -> str:
    """For each phase of some sides: the bound, what binds, what was measured, and the ratio."""
    rows = []
    for name, found in bounds.items():
        measured = measured_phases(summaries[name])
        for phase in PHASES:
            bound, seconds = found[phase], measured[phase]
            reached = f"{seconds / bound.seconds:.1f}" if seconds and bound.seconds else ""
            rows.append(
                [name, phase, f"{bound.compute:.3f}", f"{bound.memory:.3f}", f"{bound.seconds:.3f}",
                 f"{seconds:.3f}" if seconds else "not told apart", reached]
            )  # fmt: skip
        total = sum(bound.seconds for bound in found.values())
        step = summaries[name].seconds
        rows.append(
            [name, "step", "", "", f"{total:.3f}", f"{step:.3f}", f"{step / total:.1f}"]
        )  # fmt: skip
    head = ["side", "phase", "compute s", "memory s", "bound s", "measured s", "measured / bound"]
    return table(head, rows, left=2)


def limits_line(limits: Sequence[Mapping[str, Any]], machine: Machine) -> str:
    """The machine's limits in words."""
    shapes = {name: max(found["gemm"][name] for found in limits) for name in limits[0]["gemm"]}
    kinds = {name: max(found["memory"][name] for found in limits) for name in limits[0]["memory"]}
    gemm = ", ".join(f"{name} {value:.2f}" for name, value in shapes.items())
    memory = ", ".join(f"{name} {value:.0f}" for name, value in kinds.items())
    return (
        f"bfloat16 products, TFLOP/s: {gemm}; memory, GB/s: {memory}. "
        f"Bounds use {machine.tflops:.2f} TFLOP/s and {machine.gbs:.0f} GB/s."
    )


def record_line(side: str, record: StepRecord, best_canary: float) -> str:
    """One step, for those who want to see every one."""
    phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in record.phases.items())
    before, after = record.canary_ms
    kind = "warm-up" if record.step == 1 else "NOISY" if is_noisy(record, best_canary) else ""
    return (
        f"{side} step {record.step}: {record.seconds:.2f} s ({phases}); "
        f"{record.completion_tokens} tokens; canary {before:.1f}, {after:.1f} ms; "
        f"others {record.foreign:.0%} of a processor; peak {record.peak_mb:,.0f} MB {kind}"
    ).rstrip()


def gradient_lines(found: Mapping[str, Any]) -> str:
    """What `step.gradients` found, in words."""
    row = found["padding_row_error"]
    text = (
        f"Gradient of one update on the same {found['completion_tokens']:,} completion tokens, "
        f"float32, ours against TRL's: largest relative difference of a weight tensor "
        f"{found['max_gradient_error']:.1e} ({found['worst']}), of all weights together "
        f"{found['global_error']:.1e}."
    )
    if row is not None:
        text += (
            f" Both leave out the embedding's row of the padding token, to which nn.Embedding "
            f"(padding_idx) gives no gradient as an input: there the difference is {row:.1e}, "
            f"and with it the largest of all is {found['with_padding_row']:.1e}."
        )
    return text


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
