"""The `math` verifier against Math-Verify: speed and agreement on the same pairs, in one process.

    python benchmarks/verify_math.py                       a few minutes
    python benchmarks/verify_math.py --json                the last line is one JSON object
    python benchmarks/verify_math.py --data outputs.jsonl  labelled GSM8K outputs from elsewhere

Four sets: model outputs on GSM8K (`question`, `answer`, `solutions` of `solution`, `is_correct` a
line; generated stand-ins where the file is missing), worked solutions whose box holds the reference
letter by letter, and expressions that differ from the reference a little, or are equal to it in
another form. Every repeat has pairs that were not seen before, so no cache holds an answer; the
sides take turns at going first. A ratio is Math-Verify's seconds over ours on the same pairs.
Then our verifications a second through the pool of confined workers. Needs `pip install
math-verify`; without it only our side is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from math_answers import Pair, string_equal, symbolic_equal, symbolic_mismatch, word_problem

from grpo_core.plugin_manager import PluginSources
from grpo_core.types import Sample
from grpo_core.verification.pool import VerifierPool, VerifierSpec
from grpo_verifiers.math import MathVerifier

SHARED = Path(os.environ.get("GRPO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SETS: dict[str, Callable[[Random], Pair]] = {
    "gsm8k": word_problem,
    "string_equal": string_equal,
    "symbolic": symbolic_mismatch,
    "symbolic_equal": symbolic_equal,
}
WARM_UP = 30  # pairs of each set, seen by both sides before anything is timed
AGREEMENT = ("both right", "ours only", "theirs only", "both wrong")

Judge = Callable[[Pair], bool]


def our_judge() -> Judge:
    verifier = MathVerifier()
    verifier.preload()

    def judge(pair: Pair) -> bool:
        [verdict] = verifier.verify([Sample("", pair.completion, pair.reference)])
        return verdict.is_correct

    return judge


def their_judge() -> Judge | None:
    """Math-Verify as its README shows it, with its own defaults and time limits."""
    if importlib.util.find_spec("math_verify") is None:
        print("Math-Verify is not installed, so only our side is measured; to compare:")
        print("    pip install math-verify==0.9.0\n")
        return None
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs what it cannot parse
    return lambda pair: bool(verify(parse(rf"\boxed{{{pair.reference}}}"), parse(pair.completion)))


def gsm8k_outputs(path: Path) -> list[Pair]:
    """Labelled model outputs of a file, shuffled; none if there is no such file."""
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = [
        Pair(solution["solution"], row["answer"].rpartition("####")[2].strip(), label)
        for row in rows
        for solution in row["solutions"]
        if isinstance(label := solution["is_correct"], bool)
    ]
    Random(0).shuffle(pairs)
    return pairs


def distinct(make: Callable[[Random], Pair], random: Random, count: int) -> list[Pair]:
    """Pairs that all differ."""
    found: dict[Pair, None] = {}
    while len(found) < count:
        found[make(random)] = None
    return list(found)


def timed(judge: Judge, pairs: Sequence[Pair]) -> tuple[list[bool], list[float]]:
    """Verdicts, and seconds for each."""
    verdicts, seconds = [], []
    for pair in pairs:
        start = time.perf_counter()
        verdicts.append(judge(pair))
        seconds.append(time.perf_counter() - start)
    return verdicts, seconds


class Contest:
    """One set of pairs, judged by both sides, repeat by repeat."""

    def __init__(self, judges: Sequence[Judge]) -> None:
        self.judges = judges
        self.seconds: tuple[list[list[float]], ...] = tuple([] for _ in judges)
        self.agreement: Counter[str] = Counter()
        self.right = [0] * len(judges)

    def repeat(self, pairs: Sequence[Pair], first: int) -> None:
        """Time both sides on the same pairs; `first` says who begins."""
        order = range(len(self.judges)) if first == 0 else reversed(range(len(self.judges)))
        verdicts: dict[int, list[bool]] = {}
        for side in order:
            verdicts[side], seconds = timed(self.judges[side], pairs)
            self.seconds[side].append(seconds)
        for place, pair in enumerate(pairs):
            right = [verdicts[side][place] == pair.label for side in range(len(self.judges))]
            self.right = [total + new for total, new in zip(self.right, right, strict=True)]
            if len(right) == 2:
                ours, theirs = right
                self.agreement[AGREEMENT[(not theirs) + 2 * (not ours)]] += 1

    def summary(self) -> dict[str, Any]:
        """Speeds, ratios, and counts, as plain JSON."""
        result: dict[str, Any] = {"pairs": sum(map(len, self.seconds[0]))}
        for name, repeats, right in zip(("ours", "theirs"), self.seconds, self.right, strict=False):
            each = sorted(1e3 * second for repeat in repeats for second in repeat)
            result[name] = {
                "per_second": statistics.median(len(repeat) / sum(repeat) for repeat in repeats),
                "p50_ms": each[len(each) // 2],
                "p99_ms": each[int(len(each) * 0.99)],
                "max_ms": each[-1],
                "right": right,
            }
        if len(self.seconds) == 2:
            ratios = [sum(b) / sum(a) for a, b in zip(*self.seconds, strict=True)]
            result["ratio"] = statistics.median(ratios)
            result["ratio_min"], result["ratio_max"] = min(ratios), max(ratios)
            result["agreement"] = {name: self.agreement[name] for name in AGREEMENT}
        return result


def compare(arguments: argparse.Namespace, judges: Sequence[Judge]) -> dict[str, dict[str, Any]]:
    """Run all sets, interleaved."""
    needed = WARM_UP + arguments.repeats * arguments.pairs
    pairs = {name: distinct(make, Random(7), needed) for name, make in SETS.items()}
    outputs = gsm8k_outputs(arguments.data)
    if len(outputs) >= needed:
        pairs["gsm8k"] = outputs[:needed]
        print(f"GSM8K: {len(outputs):,} labelled model outputs of {arguments.data}\n")
    else:
        print(f"GSM8K: generated stand-ins, as {arguments.data} has {len(outputs)} outputs\n")
    for judge in judges:
        for some in pairs.values():
            timed(judge, some[:WARM_UP])
    contests = {name: Contest(judges) for name in SETS}
    for number in range(arguments.repeats):
        start = WARM_UP + number * arguments.pairs
        for name, contest in contests.items():
            contest.repeat(pairs[name][start : start + arguments.pairs], number % 2)
    return {name: contest.summary() for name, contest in contests.items()}


def pool_speeds(pairs: Sequence[Pair], repeats: int) -> dict[int, list[float]]:
    """Verifications a second through one and two confined workers, taking turns."""
    samples = [Sample("", pair.completion, pair.reference) for pair in pairs]
    Random(0).shuffle(samples)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with ExitStack() as stack:
        pools = {
            workers: stack.enter_context(
                VerifierPool([VerifierSpec("math")], PluginSources(), workers=workers)
            )
            for workers in speeds
        }
        for number in range(-1, repeats):  # the first only warms up
            part = samples[number + 1 :: repeats + 1]
            for workers, pool in pools.items():
                start = time.perf_counter()
                pool.verify("math", part)
                if number >= 0:
                    speeds[workers].append(len(part) / (time.perf_counter() - start))
    return speeds


def describe_machine() -> str:
    names = ["sympy", "math-verify", "latex2sympy2_extended", "gmpy2"]
    modules = {name: name.replace("-", "_") for name in names}
    found = [f"{n} {version(n)}" for n in names if importlib.util.find_spec(modules[n])]
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = ", ".join([f"Python {platform.python_version()}", *found])
    return f"{system}; {packages}; load average {load}"


def print_table(results: dict[str, dict[str, Any]]) -> None:
    print("| pairs | side | right | a second | p50 ms | p99 ms | max ms | ratio (min to max) |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, result in results.items():
        for side in ("ours", "theirs"):
            if side in result:
                row = result[side]
                ratio = ""
                if side == "ours" and "ratio" in result:
                    low, high = result["ratio_min"], result["ratio_max"]
                    ratio = f"{result['ratio']:.1f} ({low:.1f} to {high:.1f})"
                speed = f"{row['per_second']:,.0f} | {row['p50_ms']:.2f} | {row['p99_ms']:.1f}"
                right = f"{row['right']} of {result['pairs']}"
                print(f"| {name} | {side} | {right} | {speed} | {row['max_ms']:.0f} | {ratio} |")
    compared = {name: result["agreement"] for name, result in results.items() if "ratio" in result}
    if compared:
        print("\n| pairs | " + " | ".join(AGREEMENT) + " |\n|---|" + "---:|" * len(AGREEMENT))
    for name, agreement in compared.items():
        print(f"| {name} | " + " | ".join(str(agreement[kind]) for kind in AGREEMENT) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = SHARED / "data" / "gsm8k_labelled_solutions.jsonl"
    parser.add_argument("--data", type=Path, default=default, help="labelled GSM8K outputs")
    parser.add_argument("--pairs", type=int, default=300, help="pairs a set and repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(machine, end="\n\n")
    theirs = their_judge()
    results = compare(arguments, [our_judge(), *([theirs] if theirs else [])])
    print_table(results)
    everything = [pair for make in SETS.values() for pair in distinct(make, Random(8), 1_000)]
    speeds = pool_speeds(everything, arguments.repeats)
    medians = {workers: statistics.median(values) for workers, values in speeds.items()}
    gains = [two / one for one, two in zip(*speeds.values(), strict=True)]
    print(f"\nThrough the pool, {len(everything):,} generated pairs of all sets: ", end="")
    print(f"{medians[1]:,.0f} a second with one worker, {medians[2]:,.0f} with two: ", end="")
    print(f"{statistics.median(gains):.2f} times ({min(gains):.2f} to {max(gains):.2f}).")
    if arguments.json:
        ratios = {f"ratio_{name}": result.get("ratio") for name, result in results.items()}
        settings = {"pairs": arguments.pairs, "repeats": arguments.repeats, "machine": machine}
        print(json.dumps({**ratios, "sets": results, "pool": medians, "settings": settings}))


if __name__ == "__main__":
    main()
