"""Held-out evaluations before, during and after training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grpo_core.config import RunConfig
from grpo_core.evaluation.pass_rates import pass_rates
from grpo_core.evaluation.run import evaluate
from grpo_core.training.session import Session
from grpo_core.types import Prompt, RolloutGroup


def catch_up(run: Session) -> None:
    """The evaluation of the step the run starts from, unless an earlier sitting took it."""
    step = run.state.step
    if step in [result["step"] for result in run.directory.read_evaluations()]:
        _note_best(run, run.directory.read_evaluation_rollouts(step))
    else:
        evaluate_if_due(run)


def evaluate_if_due(run: Session) -> None:
    """Before the first step, and every so often; the evaluation after the last comes apart."""
    settings, step = run.config.evaluation, run.state.step
    if step == 0:
        evaluate_now(run, run.held_out)
    elif settings.every and step % settings.every == 0 and step < run.config.trainer.steps:
        evaluate_now(run, run.held_out[: settings.every_num_prompts])


def evaluate_now(run: Session, prompts: Sequence[Prompt]) -> None:
    """Evaluate the policy as it is, note the result, and save it if it is the best so far."""
    step = run.state.step
    result, groups = evaluate(
        prompts,
        run.sampler,
        run.judge,
        run.config,
        step=step,
        on_progress=lambda done, total: run.progress("evaluate", done, total),
    )
    run.directory.write_evaluation(step, result, groups)
    run.plugins.manager.hook.grpo_evaluation_finished(step=step, result=result)
    if _note_best(run, groups) and step:
        run.save()


def _note_best(run: Session, groups: Sequence[RolloutGroup]) -> bool:
    """Whether the evaluation of the current step is the best one so far."""
    score = _comparable_pass_rate(run.config, groups)
    if score is None or score <= run.state.best_pass_at_1:
        return False
    run.state = replace(run.state, best_step=run.state.step, best_pass_at_1=score)
    return True


def _comparable_pass_rate(config: RunConfig, groups: Sequence[RolloutGroup]) -> float | None:
    """pass@1 by the binary verdict on the prompts that every evaluation of the run has."""
    settings = config.evaluation
    common = min(settings.num_prompts, settings.every_num_prompts) if settings.every else None
    rate = pass_rates(groups[:common])["pass_at_1"]
    return None if rate is None else float(rate["mean"])
