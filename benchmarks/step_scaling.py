"""How the cost of our step grows: with the group, lengths, the vocabulary, and the model.

    python benchmarks/step_scaling.py                  some ten minutes on two cores
    python benchmarks/step_scaling.py --json           the last line is one JSON object
    python benchmarks/step_scaling.py --axes vocabulary model

Models of Llama's kind with random weights, made on the spot; every row is `grpo train` in a process
of its own. One size varies at a time. All tokens are computed in one micro-batch, so that memory
shows what they need; in a run, trainer.micro_batch_tokens bounds it. An exponent of 1 means
that twice the size costs twice as much. Memory is what the steps take beyond what the process held
before the first one; the gradient and the optimiser's moments are part of it, whatever the tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from step.random_model import Shape, save_random_model
from step.results import Summary, best_canary, measured_phases, summarise
from step.sides import THREADS, Side, run_side
from step.tables import describe_machine, table
from step.weights import count_weights
from step.workload import Workload

OURS = Side("ours", "grpo train")
BASE = Workload("", prompts=4, group_size=8, max_new_tokens=64, micro_batch_tokens=1 << 20)
QUESTION = 43  # tokens of a prompt without filler, give or take
AXES: dict[str, Sequence[int]] = {
    "group": (2, 4, 8, 16, 32),
    "completion": (16, 32, 64, 128, 256),
    "prompt": (64, 128, 256, 512),
    "vocabulary": (2048, 8192, 32768, 131072),
    "model": (192, 384, 576, 768),
}
SMALL = {
    "group": (2, 4),
    "completion": (4, 8),
    "prompt": (64, 96),
    "vocabulary": (512, 1024),
    "model": (192, 384),
}
CORNERS = ((2048, 64), (2048, 256), (65536, 64), (65536, 256))  # vocabulary, new tokens
SMALL_CORNERS = ((512, 4), (512, 16), (1024, 4), (1024, 16))


@dataclass(frozen=True, slots=True)
class Row:
    """One size on one axis, and what it cost."""

    size: int
    weights: int
    tokens: float
    summary: Summary
    grown_mb: float


def point(axis: str, size: int) -> tuple[Workload, Shape]:
    """The base, with one size changed."""
    shape = Shape()
    if axis == "group":
        return replace(BASE, group_size=size), shape
    if axis == "completion":
        return replace(BASE, max_new_tokens=size), shape
    if axis == "prompt":
        return replace(BASE, filler=max(0, size - QUESTION)), shape
    if axis == "vocabulary":
        return BASE, replace(shape, vocabulary=size)
    return BASE, replace(shape, hidden=size, layers=size // 64)


def measure(size: int, workload: Workload, shape: Shape, options: argparse.Namespace) -> Row:
    """One row, in processes of its own."""
    with tempfile.TemporaryDirectory(prefix="grpo-scaling-") as folder:
        model = str(save_random_model(Path(folder) / "model", shape))
        workload = replace(workload, model=model, steps=options.steps + 1)
        runs = [run_side(OURS, workload, options.threads) for _ in range(options.repeats)]
        weights = count_weights(model).total
    summary = summarise(runs, best_canary({"ours": runs}))
    grown = [max(record.grown_mb or math.nan for record in run) for run in runs]
    tokens = summary.completion_tokens + summary.prompt_tokens
    return Row(size, weights, tokens, summary, median(grown))


def exponent(rows: Sequence[Row], values: Sequence[float]) -> float:
    """The slope of log value over log size; NaN where a value is not positive."""
    if len(rows) < 2 or not all(value > 0 for value in values):
        return math.nan
    sizes = [math.log(row.size) for row in rows]
    return linear_regression(sizes, [math.log(value) for value in values]).slope


def columns(row: Row) -> dict[str, float]:
    """The numbers of a row that grow."""
    phases = measured_phases(row.summary)
    return {
        "step s": row.summary.seconds,
        "sample s": phases["sample"],
        "forward + backward s": phases["forward_backward"],
        "optimiser s": phases["optimizer"],
        "memory MB": row.grown_mb,
    }


def axis_table(axis: str, rows: Sequence[Row]) -> tuple[str, dict[str, float]]:
    """The table of an axis, and the exponents in its last line."""
    names = list(columns(rows[0]))
    cells = [
        [
            f"{row.size:,}",
            f"{row.weights / 1e6:.1f}",
            f"{row.tokens:,.0f}",
            *(f"{value:,.0f}" if "MB" in name else f"{value:.3f}"
              for name, value in columns(row).items()),
            f"{row.summary.noisy} of {row.summary.steps}",
        ]
        for row in rows
    ]  # fmt: skip
    found = {name: exponent(rows, [columns(row)[name] for row in rows]) for name in names}
    last = ["" if math.isnan(value) else f"{value:.2f}" for value in found.values()]
    cells.append(["exponent", "", "", *last, ""])
    return table([axis, "weights, M", "tokens", *names, "noisy"], cells), found


def corners(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Memory of an added token with a small and a large vocabulary; they should be alike.

    Where memory grew with vocabulary times tokens, the ratio would be that of the vocabularies.
    """
    places = SMALL_CORNERS if options.small else CORNERS
    rows = []
    for vocabulary, length in places:
        shape = Shape(vocabulary=vocabulary)
        row = measure(length, replace(BASE, max_new_tokens=length), shape, options)
        rows.append((vocabulary, row))
        print(f"vocabulary {vocabulary}, {length} new tokens: {row.grown_mb:,.0f} MB",
              file=sys.stderr, flush=True)  # fmt: skip
    added = [_added(rows[0][1], rows[1][1]), _added(rows[2][1], rows[3][1])]
    text = table(
        ["vocabulary", "memory MB, few tokens", "many tokens", "tokens added", "KB a token added"],
        [
            [f"{few[0]:,}", f"{few[1].grown_mb:,.0f}", f"{many[1].grown_mb:,.0f}",
             f"{many[1].tokens - few[1].tokens:,.0f}", f"{each:.1f}"]
            for few, many, each in ((rows[0], rows[1], added[0]), (rows[2], rows[3], added[1]))
        ],
    )  # fmt: skip
    vocabularies = places[2][0] / places[0][0]
    found = {"kb_a_token": added, "ratio": added[1] / added[0], "vocabulary_ratio": vocabularies}
    verdict = (
        f"A token costs {found['ratio']:.2f} times as much memory with a vocabulary "
        f"{vocabularies:.0f} times as large."
    )
    return f"{text}\n\n{verdict}", found


def _added(few: Row, many: Row) -> float:
    """KB for each token that `many` has more."""
    return 1024 * (many.grown_mb - few.grown_mb) / (many.tokens - few.tokens)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    axes = "by default all; corners: memory of a token by vocabulary"
    parser.add_argument("--axes", nargs="+", choices=(*AXES, "corners"), help=axes)
    parser.add_argument("--repeats", type=int, default=1, help="processes a row")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process")
    parser.add_argument("--threads", choices=THREADS, default="spinning")
    parser.add_argument("--small", action="store_true", help="two tiny sizes an axis, for a test")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    options = parse(arguments)
    print(describe_machine())
    print(f"Base: {BASE.prompts} prompts of about {QUESTION} tokens, {BASE.group_size} completions "
          f"of {BASE.max_new_tokens} tokens, {Shape()}; {options.threads} threads, "
          f"{options.repeats} x {options.steps} timed steps")  # fmt: skip
    results: dict[str, Any] = {"axes": {}, "corners": None}
    sizes: Mapping[str, Sequence[int]] = SMALL if options.small else AXES
    for axis in options.axes or (*AXES, "corners"):
        if axis == "corners":
            text, results["corners"] = corners(options)
            print(f"\n{text}")
            continue
        rows = []
        for size in sizes[axis]:
            rows.append(measure(size, *point(axis, size), options))
            seconds = rows[-1].summary.seconds
            print(f"{axis} {size}: {seconds:.2f} s", file=sys.stderr, flush=True)
        text, exponents = axis_table(axis, rows)
        print(f"\n{text}", flush=True)
        kept = [asdict(row) | columns(row) for row in rows]
        results["axes"][axis] = {"rows": kept, "exponents": exponents}
    if options.json:
        settings = {"machine": describe_machine(), "base": asdict(BASE), "shape": asdict(Shape())}
        print(json.dumps({**results, "settings": settings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
