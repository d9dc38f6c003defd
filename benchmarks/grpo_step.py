"""One GRPO step on a fixed workload: grpo-core, TRL, and what the machine could do.

    python benchmarks/grpo_step.py                     about 25 minutes on two cores
    python benchmarks/grpo_step.py --json              the last line is one JSON object
    python benchmarks/grpo_step.py --threads both      with spinning and with passive threads
    python benchmarks/grpo_step.py --find-best         looks first which settings of TRL's are best

SmolLM2-135M-Instruct, 8 prompts ("What is 71 + 26? Answer with the number only."), 8 completions
of each, up to 64 new tokens at temperature 1, natural ends; learning rate 1e-5, no KL, on-policy,
token mean. Every side runs in a process of its own, all of them in turn in each repeat, on the same
prompts in the same order, and samples its own completions. Ours is `grpo train` itself, with its
worker pool, records, and hand-over. Needs the extra `bench` (TRL); without it, only ours is
measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from step.results import (
    Ratio,
    Runs,
    Summary,
    best_canary,
    machine_of,
    step_bounds,
    step_ratio,
    summarise,
)
from step.roofline import Weights
from step.sides import THREADS, Side, last_json, run_python, run_side
from step.tables import (
    describe_machine,
    gradient_lines,
    limits_line,
    phase_table,
    record_line,
    roofline_table,
    step_table,
)
from step.trl_side import MISSING, TrlSettings
from step.weights import count_weights
from step.workload import MATH, Workload, model_folder

SIDES = {
    side.name: side
    for side in (
        Side("ours", "grpo train, all groups trained"),
        Side("ours_signal", "grpo train, the task's own reward: groups without signal left out",
             reward=MATH),
        Side("ours_plain", "grpo train without its fast layouts: padded rows, whole logits",
             plain=True),
        Side("trl_default", "TRL's defaults", trl={}),
        Side("trl_best", "TRL's best settings that can learn", trl={}),
        Side("trl_bf16", "TRL's best settings with bfloat16 weights, which learn nothing at 1e-5",
             trl={"weights": "bfloat16"}),
    )
}  # fmt: skip
# The fastest of CANDIDATES on two cores with AMX, TRL 1.16. Checkpointing helps even where
# there is memory enough: pages that are touched for the first time cost more than a recomputation.
BEST = {"attention": "eager", "micro_batch": 16, "gradient_checkpointing": True}
CANDIDATES = [
    {"attention": attention, "micro_batch": size, "gradient_checkpointing": again}
    for attention, size, again in (
        ("sdpa", 64, True), ("sdpa", 16, True), ("eager", 64, True), ("eager", 32, True),
        ("eager", 16, True), ("eager", 8, True), ("sdpa", 64, False), ("eager", 64, False),
        ("eager", 16, False), ("eager", 8, False),
    )
]  # fmt: skip
DEFINITIONS = {
    "step_ratio_*": "seconds of their step over seconds of ours; the median over repeats",
    "step_ratio_signal_only": "TRL's defaults over ours with groups without signal left out",
    "memory_ratio_trl": "peak of our trainer process over that of TRL's with its defaults",
    "roofline_ratio": "seconds of our step over the sum of its phases' bounds",
    "max_gradient_error": "largest |ours - TRL's| / |TRL's| of a weight's gradient, float32",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="hub id or folder; by default SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=int, default=8, help="prompts a step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process")
    parser.add_argument("--threads", choices=(*THREADS, "both"), default="spinning")
    names = f"some of {', '.join(SIDES)}; by default all but the last"
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=names)
    parser.add_argument("--find-best", action="store_true", help="try TRL's settings out first")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args(arguments)
    if min(options.repeats, options.steps, options.prompts) < 1 or options.group_size < 2:
        parser.error("there must be a repeat, a step, a prompt, and two completions of it")
    return options


def chosen_sides(options: argparse.Namespace, best: Mapping[str, Any]) -> list[Side]:
    """The sides to run; those of TRL's only where it is installed."""
    names = options.sides or [name for name in SIDES if name != "trl_bf16"]
    has_trl = importlib.util.find_spec("trl") is not None
    if not has_trl and any(SIDES[name].trl is not None for name in names):
        print(f"{MISSING}\nOnly our side is measured.\n")
        names = [name for name in names if SIDES[name].trl is None]
    completions = options.prompts * options.group_size
    sides = []
    for side in (SIDES[name] for name in names):
        if side.trl is not None:
            changes = dict(best) if side.name != "trl_default" else {}
            size = min(changes.get("micro_batch", completions), completions)
            while completions % size:
                size -= 1
            side = replace(side, trl={**changes, **side.trl, "micro_batch": size})
        sides.append(side)
    return sides


def find_best(workload: Workload, threads: str) -> dict[str, Any]:
    """The fastest of CANDIDATES in one timed step each."""
    print("| TRL's settings | step s | peak MB |\n|---|---:|---:|")
    found = {}
    for settings in CANDIDATES:
        trial = Side("trial", "", trl=settings)
        record = run_side(trial, replace(workload, steps=2), threads)[-1]
        found[record.seconds] = settings
        text = ", ".join(f"{name}={value}" for name, value in settings.items())
        print(f"| {text} | {record.seconds:.1f} | {record.peak_mb:,.0f} |", flush=True)
    print()
    return found[min(found)]


def measure(
    sides: Sequence[Side], workload: Workload, repeats: int, threads: str
) -> tuple[dict[str, Runs], list[dict[str, Any]]]:
    """All sides in turn, repeat by repeat; and the machine's limits before each repeat."""
    runs: dict[str, list[Any]] = {side.name: [] for side in sides}
    limits = []
    for repeat in range(repeats):
        limits.append(last_json(run_python(["-m", "step.limits"], threads)))
        order = sides if repeat % 2 == 0 else sides[::-1]
        for side in order:
            records = run_side(side, replace(workload, seed=repeat), threads)
            runs[side.name].append(records)
            seconds = ", ".join(f"{record.seconds:.2f}" for record in records)
            print(f"repeat {repeat + 1}: {side.name}: {seconds} s", file=sys.stderr, flush=True)
    return dict(runs), limits


def gradient_error(workload: Workload, threads: str) -> dict[str, Any]:
    """What `step.gradients` finds."""
    completions = workload.prompts * workload.group_size
    size = next(size for size in (16, 8, 4, 2, 1) if completions % size == 0)
    arguments = ["-m", "step.gradients", json.dumps(asdict(workload)), str(size)]
    return last_json(run_python(arguments, threads))


def report(
    runs: Mapping[str, Runs], limits: Sequence[Mapping[str, Any]], weights: Weights
) -> dict[str, Any]:
    """Print the tables of one thread setting; what of it goes into the JSON."""
    best, machine = best_canary(runs), machine_of(limits)
    summaries = {name: summarise(found, best) for name, found in runs.items()}
    ratios = {
        name: step_ratio(found, runs["ours"])
        for name, found in runs.items()
        if "ours" in runs and name != "ours"
    }
    bounds = {name: step_bounds(found, machine, weights) for name, found in summaries.items()}
    for name, found in runs.items():
        for records in found:
            for record in records:
                print(record_line(name, record, best))
    print(f"\n{step_table(summaries, ratios)}\n\n{phase_table(summaries)}\n")
    print(f"{limits_line(limits, machine)}\n\n{roofline_table(bounds, summaries)}\n")
    total = {name: sum(b.seconds for b in found.values()) for name, found in bounds.items()}
    return {
        **headline(runs, summaries, ratios),
        "roofline_ratio": summaries["ours"].seconds / total["ours"] if "ours" in total else None,
        "sides": {name: asdict(found) for name, found in summaries.items()},
        "ratios_to_ours": {name: asdict(ratio) for name, ratio in ratios.items()},
        "bounds": {
            name: {phase: asdict(bound) for phase, bound in found.items()}
            for name, found in bounds.items()
        },
        "limits": list(limits),
        "best_canary_ms": best,
    }


def headline(
    runs: Mapping[str, Runs], summaries: Mapping[str, Summary], ratios: Mapping[str, Ratio]
) -> dict[str, float | None]:
    """The ratios that targets are set for; None where a side was not run."""

    def ratio(name: str) -> float | None:
        return ratios[name].median if name in ratios else None

    def memory(name: str) -> float | None:
        if not {name, "ours"} <= set(summaries):
            return None
        return summaries["ours"].peak_mb / summaries[name].peak_mb

    both = {"trl_default", "ours_signal"} <= set(runs)
    signal = step_ratio(runs["trl_default"], runs["ours_signal"]).median if both else None
    return {
        "step_ratio_trl_default": ratio("trl_default"),
        "step_ratio_trl_best": ratio("trl_best"),
        "step_ratio_signal_only": signal,
        "step_ratio_plain": ratio("ours_plain"),
        "memory_ratio_trl": memory("trl_default"),
        "memory_ratio_trl_best": memory("trl_best"),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    options = parse(arguments)
    print(describe_machine(), end="\n\n")
    workload = Workload(
        model_folder(options.model),
        options.prompts,
        options.group_size,
        options.max_new_tokens,
        steps=options.steps + 1,
    )
    modes = list(THREADS) if options.threads == "both" else [options.threads]
    has_trl = importlib.util.find_spec("trl") is not None
    best = find_best(workload, modes[0]) if options.find_best and has_trl else BEST
    sides = chosen_sides(options, best)
    for side in sides:
        print(f"{side.name}: {side.title}{describe_trl(side)}")
    weights = count_weights(workload.model)
    results: dict[str, Any] = {}
    for threads in modes:
        print(f"\n{threads.capitalize()} threads, {options.repeats} repeats of {options.steps} "
              "timed steps\n", flush=True)  # fmt: skip
        runs, limits = measure(sides, workload, options.repeats, threads)
        results[threads] = report(runs, limits, weights)
    gradient: dict[str, Any] = {"max_gradient_error": None}
    if any(side.trl is not None for side in sides):
        gradient = gradient_error(workload, modes[0])
        print(gradient_lines(gradient))
    if options.json:
        settings = {"machine": describe_machine(), "repeats": options.repeats,
                    "steps": options.steps, "workload": asdict(workload),
                    "trl_best": dict(best)}  # fmt: skip
        first = results[modes[0]]
        print(json.dumps({
            **{name: first[name] for name in first if "ratio_" in name or name.endswith("_ratio")},
            "max_gradient_error": gradient["max_gradient_error"],
            "gradient": gradient,
            "threads": results,
            "definitions": DEFINITIONS,
            "settings": settings,
        }))  # fmt: skip
    return 0


def describe_trl(side: Side) -> str:
    """TRL's settings in words, for a side of TRL's."""
    if side.trl is None:
        return ""
    return f": {TrlSettings(**side.trl).describe()}"


if __name__ == "__main__":
    sys.exit(main())
