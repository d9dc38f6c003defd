"""Kill runs at moments that hypothesis draws, resume them, and compare with undisturbed ones.

    python tests/kill_trials.py --trials 100 --seed 0

A trial draws a variant of the config and up to three kills in a row; each sitting goes on from what
the one before left. The last line is `equal N of N`: so many trials ended with the same metrics,
completions, evaluations, and checkpoints as the undisturbed run of their variant, to the last bit,
with no file too many and no process left. Wall times are the one thing that may differ.

What can be drawn, and how a run is ended exactly there, is in kill_child.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from kill_child import FAULTS
from kill_workshop import ANY_TIME, Plan, Trial, Workshop

CONFIG: dict[str, Any] = {
    "task": {"name": "letters"},
    "sampling": {"max_new_tokens": 8},
    "grpo": {"group_size": 4, "prompts_per_step": 3},
    "trainer": {
        "steps": 4,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "schedule": "cosine",
        "save_every": 1,
        "keep_checkpoints": 2,
        "dtype": "float32",
    },
    # Half of the completions of the untrained model are right, so there is something to learn.
    "verifiers": [{"name": "many_letters", "options": {"least": 2}}],
    "verification": {"workers": 1},
    "evaluation": {"num_prompts": 6, "num_samples": 2, "every": 2, "every_num_prompts": 4},
}
# What is laid over CONFIG. Add a line for every setting that gives the loop something to remember.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl": {"grpo": {"beta": 0.1, "kl_in": "loss"}},
    "leave one out": {"grpo": {"advantage": "leave_one_out", "aggregation": "token_mean"}},
    "batch": {"grpo": {"advantage": "batch", "loss": "gspo", "aggregation": "token_sum"}},
    "bfloat16": {"trainer": {"dtype": "bfloat16"}},
    "iterations": {"grpo": {"num_iterations": 2, "loss": "cispo"}},
    "moving reference": {"grpo": {"beta": 0.1}, "reference": {"sync_every": 2}},
    "refill": {"grpo": {"group_size": 2}, "selection": {"refill_budget": 3}},
    # So many prompts that some of the 40 come again.
    "curriculum": {
        "grpo": {"group_size": 2, "prompts_per_step": 14},
        "selection": {"curriculum": "middling"},
    },
    "lora": {"lora": {"rank": 4}},
    "ahead": {"sampling": {"mismatch": "token_truncate"}, "selection": {"ahead": 1}},
}
# A plan is quick to draw once the undisturbed run of its variant is made, which takes seconds.
QUIET = settings(database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def configs() -> dict[str, dict[str, Any]]:
    """The whole config of each variant."""
    return {name: _merged(CONFIG, changes) for name, changes in VARIANTS.items()}


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, **{name: {**one.get(name, {}), **section} for name, section in other.items()}}


def carry_out(
    workshop: Workshop, number: int, seed: int, on_trial: Callable[[Trial], None]
) -> list[Trial]:
    """`number` trials whose plans follow from the seed."""
    done: list[Trial] = []

    @hypothesis.seed(seed)
    @settings(QUIET, max_examples=number, phases=[Phase.generate])
    @hypothesis.given(workshop.plans())
    def attempt(plan: Plan) -> None:
        done.append(workshop.run(plan))
        on_trial(done[-1])

    attempt()
    return done


def table(trials: Sequence[Trial]) -> str:
    """For each kind of moment: in how many trials it was drawn, and what came of them."""
    rows: dict[str, Counter[str]] = {}
    for trial in trials:
        for kill, was_killed in zip_longest(trial.plan.kills, trial.killed, fillvalue=False):
            rows.setdefault(kill.kind, Counter())["killed"] += was_killed
        for kind in {kill.kind for kill in trial.plan.kills}:
            rows[kind].update(["trials", "different" if trial.differences else "equal"])
    lines = [f"{'killed in':18} trials  killed for real  resumed equal  not equal"]
    for kind, row in sorted(rows.items()):
        lines.append(
            f"{kind:18} {row['trials']:6}  {row['killed']:15}  {row['equal']:13}  "
            f"{row['different']:9}"
        )
    return "\n".join(lines)


def main() -> int:
    """Print a line for each trial, then the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault", choices=FAULTS, help="break the resume on purpose")
    options = parser.parse_args()

    def show(trial: Trial) -> None:
        kills = ", ".join(
            f"{kill.share:.0%} of its time" if kill.kind == ANY_TIME
            else f"{kill.kind} {kill.step}.{kill.number}"
            for kill in trial.plan.kills
        )  # fmt: skip
        result = "; ".join(trial.differences) or "equal"
        print(f"{trial.plan.variant}: {kills} (killed {sum(trial.killed)}): {result}", flush=True)

    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        Workshop(Path(folder), configs(), options.fault) as workshop,
    ):
        trials = carry_out(workshop, options.trials, options.seed, show)
    equal = sum(not trial.differences for trial in trials)
    kills = sum(sum(trial.killed) for trial in trials)
    print(f"\n{table(trials)}\n{kills} kills, {time.monotonic() - started:.0f} s")
    print(f"equal {equal} of {len(trials)}")
    return 0 if equal == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
