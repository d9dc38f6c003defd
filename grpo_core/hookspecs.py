"""The hook points of grpo-core, and the markers with which plugins answer them.

Every hook is optional and additive. `docs/hooks.md` shows each with a minimal plugin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import click

    from grpo_core.types import RolloutGroup

PROJECT = "grpo"
ENTRY_POINT_GROUP = "grpo_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built, in every process that needs verifiers.

    Args:
        register: `register(name, target)`; target is a verifier class, a function decorated with
            `grpo_core.verifier`, or a string "package.module:attribute" that is imported on use.
    """


@hookspec
def grpo_register_shapers(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; as `grpo_register_verifiers`, for reward shapers."""


@hookspec
def grpo_register_tasks(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; as `grpo_register_verifiers`, for tasks."""


@hookspec
def grpo_register_samplers(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; for sampling engines.

    Args:
        register: target is called as `target(context)` with a
            `grpo_core.sampling.base.SamplerContext` and returns a `grpo_core.protocols.Sampler`. If
            it has an attribute `check_installed`, that is called before a run starts.
    """


@hookspec
def grpo_register_advantages(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; for advantage estimators.

    Args:
        register: target is called as `target(rewards, valid)` with [P, G] tensors and returns
            [P, G] advantages, exactly 0 where not valid. One with `takes_steps = True` gets the
            rewards of steps, [P, G, S], and returns the advantage at each step.
    """


@hookspec
def grpo_register_losses(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; for policy losses.

    Args:
        register: target has the signature of `grpo_core.losses.grpo.grpo_loss`.
    """


@hookspec
def grpo_register_trackers(register: Callable[[str, Any], None]) -> None:
    """Called once when registries are built; for metric trackers.

    Args:
        register: target is called as `target(run_directory, config)`; the object it returns has
            `log(step, metrics)` and `close()`.
    """


@hookspec
def grpo_add_cli(group: click.Group) -> None:
    """Called once when the command line starts; add commands to `group`.

    Args:
        group: the `grpo` command itself. Import heavy modules inside your command, not before.
    """


@hookspec
def grpo_doctor_checks(register: Callable[[str, Any], None]) -> None:
    """Called once by `grpo doctor`; for checks of what a plugin rests on.

    Args:
        register: `register(name, look)`; look, or a string "package.module:attribute" of it, is
            called as `look(config)` with the resolved config as plain values, and yields findings:
            mappings with "status" ("ok", "warning", "problem" or "skipped"), "found" (what was
            seen), and where they apply "cure" (what to do) and "numbers" (plain JSON).
    """


@hookspec
def grpo_run_started(run_directory: str, config: Mapping[str, Any]) -> None:
    """Called once, after the preflight and before the first evaluation. Observe only.

    Args:
        run_directory: where the run keeps its files.
        config: the resolved config as plain values.
    """


@hookspec
def grpo_rollouts_scored(step: int, groups: Sequence[RolloutGroup]) -> None:
    """Called every training step, after advantages are known and before the update. Observe only.

    Args:
        step: counts from 1.
        groups: one record a prompt, with verdicts, reward components, and advantages.
    """


@hookspec
def grpo_progress(phase: str, done: int, total: int) -> None:
    """Called often while a long phase runs. Observe only, and return at once.

    With selection.ahead batches are sampled in another thread than the trainer's; so are the calls
    that tell of it.

    Args:
        phase: "sample", "train" or "evaluate".
        done: completions finished so far.
        total: completions of the phase.
    """


@hookspec
def grpo_step_finished(step: int, metrics: Mapping[str, float]) -> None:
    """Called every training step, after the update. Observe only.

    Args:
        step: counts from 1.
        metrics: the line that metrics.jsonl gets.
    """


@hookspec
def grpo_alarm_raised(step: int, name: str, message: str) -> None:
    """Called when a run's numbers begin to go wrong, after `grpo_step_finished`. Observe only.

    Args:
        step: counts from 1.
        name: of the alarm, such as "gradient_explosion".
        message: what was measured and what helps, for people.
    """


@hookspec
def grpo_evaluation_finished(step: int, result: Mapping[str, Any]) -> None:
    """Called after each evaluation. Observe only.

    Args:
        step: optimiser steps done when it was taken; 0 is the untrained model.
        result: the evaluation as written to the run directory.
    """


@hookspec
def grpo_run_finished(summary: Mapping[str, Any]) -> None:
    """Called once at the end, also after Ctrl-C or an error. Observe only.

    Args:
        summary: what summary.json holds; `summary["status"]` is "finished", "interrupted" or
            "failed".
    """
