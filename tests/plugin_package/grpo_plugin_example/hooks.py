"""What the entry point names: attaches every part of this plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grpo_core import hookimpl
from grpo_plugin_example import recorder

if TYPE_CHECKING:
    import click

    from grpo_core.types import RolloutGroup


@hookimpl
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    """Attach a verifier; the text is imported on use."""
    register("palindrome", "grpo_plugin_example.palindrome:palindrome")


@hookimpl
def grpo_register_shapers(register: Callable[[str, Any], None]) -> None:
    """Attach a reward shaper."""
    register("question_marks", "grpo_plugin_example.question_marks:question_marks")


@hookimpl
def grpo_register_tasks(register: Callable[[str, Any], None]) -> None:
    """Attach a task."""
    register("reversal", "grpo_plugin_example.reversal:Reversal")


@hookimpl
def grpo_add_cli(group: click.Group) -> None:
    """Attach a command."""
    from grpo_plugin_example.commands import example

    group.add_command(example)


@hookimpl
def grpo_run_started(run_directory: str, config: Mapping[str, Any]) -> None:
    """Record the start."""
    recorder.record("run_started", run_directory=run_directory, sections=sorted(config))


@hookimpl
def grpo_rollouts_scored(step: int, groups: Sequence[RolloutGroup]) -> None:
    """Record the rewards of a step."""
    rewards = [[rollout.reward for rollout in group.rollouts] for group in groups]
    recorder.record("rollouts_scored", step=step, rewards=rewards)


@hookimpl
def grpo_progress(phase: str, done: int, total: int) -> None:
    """Record the end of a phase; in between, return at once."""
    if done == total:
        recorder.record("progress", phase=phase, total=total)


@hookimpl
def grpo_step_finished(step: int, metrics: Mapping[str, float]) -> None:
    """Record the names of a step's metrics."""
    recorder.record("step_finished", step=step, metrics=sorted(metrics))


@hookimpl
def grpo_evaluation_finished(step: int, result: Mapping[str, Any]) -> None:
    """Record what an evaluation consists of."""
    recorder.record("evaluation_finished", step=step, result=sorted(result))


@hookimpl
def grpo_run_finished(summary: Mapping[str, Any]) -> None:
    """Record how the run ended."""
    recorder.record("run_finished", status=summary["status"])
