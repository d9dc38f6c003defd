"""A plugin file that watches a run of ours, `grpo train` itself, and writes down its steps.

The file named by GRPO_BENCH_STEPS gets a line a step; see `step.probe.StepRecord`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from grpo_core import hookimpl

if TYPE_CHECKING:
    from grpo_core.types import RolloutGroup
    from step.probe import Meter

PHASES = {
    "seconds_sample": "sample",
    "seconds_verify": "verify",
    "seconds_logprobs": "logprobs",
    "seconds_forward_backward": "forward_backward",
    "seconds_optimizer": "optimizer",
    "seconds_hand_over": "hand_over",
}


class Observer:
    """Stands between the steps of the run of this process."""

    def __init__(self) -> None:
        self.meter: Meter | None = None
        self.counts: dict[str, int] = {}
        self.trained_prompts = 0
        self.exits = ExitStack()

    def start(self) -> None:
        """The model is loaded; nothing is sampled yet."""
        from step.probe import Meter

        self.meter = Meter(os.environ["GRPO_BENCH_STEPS"])
        self.exits.enter_context(self.meter.counting_positions())

    def scored(self, groups: Sequence[RolloutGroup]) -> None:
        """Everything is sampled and judged."""
        self.counts, self.trained_prompts = count_samples(groups)

    def finish(self, step: int, metrics: Mapping[str, float]) -> None:
        """The step is over and its records are written."""
        assert self.meter is not None
        self.meter.finish(
            step,
            phases_of(metrics),
            **self.counts,
            trained_tokens=metrics["trained_tokens"],
            extra={
                "trained_prompts": self.trained_prompts,
                "zero_signal_share": metrics["zero_signal_share"],
                "pass_rate": metrics["pass_rate"],
            },
        )


def count_samples(groups: Sequence[RolloutGroup]) -> tuple[dict[str, int], int]:
    """Tokens of a step's samples, and tokens of the prompts of groups that have signal."""
    lengths = [len(r.completion.token_ids) for group in groups for r in group.rollouts]
    trained = [g for g in groups if any(rollout.has_signal for rollout in g.rollouts)]
    counts = {
        "completion_tokens": sum(lengths),
        "prompt_tokens": sum(len(group.prompt_token_ids) for group in groups),
        "longest": max(lengths),
    }
    return counts, sum(len(group.prompt_token_ids) for group in trained)


def phases_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """The phases that a step's line of metrics tells apart."""
    phases = {phase: metrics[name] for name, phase in PHASES.items() if name in metrics}
    if "forward_backward" not in phases:
        phases["train"] = metrics["seconds_train"]
    return phases


_OBSERVER = Observer()


@hookimpl
def grpo_run_started(run_directory: str, config: Mapping[str, Any]) -> None:
    _OBSERVER.start()


@hookimpl
def grpo_evaluation_finished(step: int, result: Mapping[str, Any]) -> None:
    if step == 0 and _OBSERVER.meter is not None:
        _OBSERVER.meter.restart()


@hookimpl
def grpo_rollouts_scored(step: int, groups: Sequence[RolloutGroup]) -> None:
    _OBSERVER.scored(groups)


@hookimpl
def grpo_step_finished(step: int, metrics: Mapping[str, float]) -> None:
    _OBSERVER.finish(step, metrics)
