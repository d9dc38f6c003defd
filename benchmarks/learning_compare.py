"""The tables of `learning.py --compare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median

from learning_runs import (
    Run,
    check_same_recipe,
    common_steps,
    held_out_difference,
    over_runs,
    read_run,
    reward_difference,
    seconds_a_step,
    seconds_until,
)

_COSTLESS = ("trainer.learning_rate", "trainer.schedule", "trainer.steps")  # a step takes as long
SPAN = 5  # steps whose training rewards are averaged


def compare(folders: Sequence[Path], target: float) -> str:
    """All tables, as Markdown."""
    runs = sorted(map(read_run, folders), key=lambda run: (run.label, run.seed))
    curves = [run for run in runs if run.evaluations]
    quiet = [run for run in runs if run.settings["quiet"]]
    check_same_recipe(curves)
    check_same_recipe(runs, _COSTLESS)
    parts = (
        machines(runs),
        held_out_table(curves),
        reward_table(curves),
        speed_table(curves, quiet),
        target_table(curves, quiet, target),
        pair_table(curves),
    )
    return "\n\n".join("\n".join(part) for part in parts)


def machines(runs: Sequence[Run]) -> Iterator[str]:
    """What the runs were made on, once each."""
    lines: dict[str, None] = {}
    for run in runs:
        settings = run.settings
        packages = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
        lines[f"{settings['system']}; Python {settings['python']}, {packages}"] = None
    yield from lines


def held_out_table(curves: Sequence[Run]) -> Iterator[str]:
    """pass@1 of every evaluation."""
    steps = sorted({row["step"] for run in curves for row in run.evaluations})
    yield from _head("held-out pass@1 after step", "seed", *map(str, steps))
    for run in curves:
        found = {row["step"]: f"{row['pass_at_1']:.3f}" for row in run.evaluations}
        yield _line(run.label, run.seed, *(found.get(step, "") for step in steps))


def reward_table(curves: Sequence[Run]) -> Iterator[str]:
    """Training rewards, a few steps together."""
    longest = max(len(run.steps) for run in curves)
    starts = range(0, longest, SPAN)
    yield from _head("training reward", "seed", *(f"{s + 1}-{s + SPAN}" for s in starts))
    for run in curves:
        rewards = run.rewards()
        means = [rewards[start : start + SPAN] for start in starts]
        yield _line(run.label, run.seed, *(f"{fmean(part):.3f}" if part else "" for part in means))


def speed_table(curves: Sequence[Run], quiet: Sequence[Run]) -> Iterator[str]:
    """What a step costs: wall time where the machine was quiet, CPU time elsewhere."""
    yield from _head(
        "seconds a step", "seed", "threads", "waiting", "steps", "wall (quiet)", "CPU", "canary, ms"
    )
    for run in (*quiet, *(run for run in curves if not run.settings["quiet"])):
        settings, wall = run.settings, "not counted"
        if settings["quiet"]:
            middle, least, most = seconds_a_step(run)
            wall = f"{middle:.2f} ({least:.2f} to {most:.2f})"
        canary = " / ".join(f"{value:.1f}" for value in settings.get("canary_ms", ()))
        yield _line(
            run.label,
            run.seed,
            settings["threads"],
            settings["omp_wait_policy"],
            len(run.steps),
            wall,
            f"{median(run.durations('cpu_seconds')):.1f}",
            canary,
        )


def target_table(curves: Sequence[Run], quiet: Sequence[Run], target: float) -> Iterator[str]:
    """When the target is first reached at an evaluation."""
    yield from _head(
        f"pass@1 of {target:.0%} first reached",
        "seed",
        "step",
        "CPU s",
        "wall s: steps x quiet step",
        "wall s: the same, scaled by CPU time",
    )
    for run in curves:
        found = run.reached(target)
        if found is None:
            yield _line(run.label, run.seed, f"not in {len(run.steps)}", "", "", "")
            continue
        timed = next((other for other in quiet if other.label == run.label), None)
        times = ["", ""]
        if timed is not None:
            plain = found["step"] * seconds_a_step(timed)[0]
            times = [f"{plain:.0f}", f"{seconds_until(run, found['step'], timed):.0f}"]
        yield _line(run.label, run.seed, found["step"], f"{found['cpu_seconds']:.0f}", *times)


def pair_table(curves: Sequence[Run]) -> Iterator[str]:
    """Learning per step, each two sides with the same prompts in the same order."""
    yield from _head(
        "first minus second", "seed", "steps", "training reward (other completions)", "held-out"
    )
    labels = list(dict.fromkeys(run.label for run in curves))
    for one, other in combinations(labels, 2):
        name = f"{one} - {other}"
        pairs = [
            (mine, theirs)
            for mine in curves
            for theirs in curves
            if (mine.label, theirs.label) == (one, other) and mine.seed == theirs.seed
        ]
        rewards, held_out = [], []
        for mine, theirs in pairs:
            reward = reward_difference(mine, theirs)
            rewards.append(reward.mean)
            held_out.append(held_out_difference(mine, theirs))
            count = common_steps(mine, theirs)
            yield _line(name, mine.seed, count, reward, f"{held_out[-1]:+.3f}")
        if len(pairs) > 1:
            yield _line(name, "all (other runs)", "", over_runs(rewards), over_runs(held_out))


def _head(*cells: str) -> Iterator[str]:
    yield _line(*cells)
    yield "|---" * len(cells) + "|"


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
