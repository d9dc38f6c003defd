"""A whole training run: evaluate, train, evaluate again, and leave everything in a directory."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from grpo_core.assembly import (
    LoadedModel,
    chosen_verifiers,
    create_sampler,
    create_task,
    evaluation_prompts,
    load_policy,
    load_prompts,
    open_judge,
    with_split,
)
from grpo_core.config import RunConfig, resolved
from grpo_core.errors import CheckpointError
from grpo_core.evaluation.pass_rates import pass_rates
from grpo_core.evaluation.run import evaluate
from grpo_core.models.load import cast_model, find_model
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.records.manifest import build_manifest
from grpo_core.records.report import write_report
from grpo_core.records.run_directory import RunDirectory
from grpo_core.rollout import Judge
from grpo_core.training.checkpoint import (
    TrainerState,
    load_optimizer,
    newest_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
)
from grpo_core.training.interruption import Interruption, StopRequested, ctrl_c
from grpo_core.training.loop import Step, grpo_steps
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.recompute import recompute_activations
from grpo_core.training.resume import check_same_run, is_finished
from grpo_core.training.summary import summarise
from grpo_core.training.update import Learner
from grpo_core.types import Prompt, RolloutGroup, Sampler, Task


@dataclass(slots=True)
class _Run:
    """The parts of a run under way. Only `state` changes, once a step."""

    config: RunConfig
    plugins: Plugins
    directory: RunDirectory
    loaded: LoadedModel
    learner: Learner
    sampler: Sampler
    judge: Judge
    train_prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    interruption: Interruption
    state: TrainerState

    def save(self) -> None:
        """Write a checkpoint of the current state and drop those no longer wanted."""
        save_checkpoint(
            self.directory.checkpoints,
            self.learner.model,
            self.loaded.tokenizer,
            self.learner.masters,
            self.learner.optimizer,
            self.state,
        )
        prune_checkpoints(
            self.directory.checkpoints, self.config.trainer.keep_checkpoints, self.state.best_step
        )

    def progress(self, phase: str, done: int, total: int) -> None:
        """Tell observers; and a moment at which Ctrl-C is safe, for nothing is being changed."""
        self.interruption.check()
        self.plugins.manager.hook.grpo_progress(phase=phase, done=done, total=total)


def train(
    config: RunConfig,
    plugins: Plugins,
    sources: PluginSources,
    directory: RunDirectory,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """Run `config` in `directory`, from its newest checkpoint if `resume`.

    Ctrl-C saves a checkpoint and ends the run with status "interrupted". A failure does the same
    with status "failed", and is raised again. A run that has finished is left as it is.

    Returns:
        the summary, which is also in summary.json.

    Raises:
        ConfigError: if `config` would make a resumed run another one.
        GrpoError: if the run cannot be set up, or fails.
    """
    if resume:
        check_same_run(directory.read_config(), config)
        summary = directory.read_summary()
        if is_finished(summary, config):
            return summary
    task = create_task(config, plugins)
    config = with_split(config, task)
    train_prompts = load_prompts(task, "train")
    held_out = evaluation_prompts(config, task)
    checkpoint = newest_checkpoint(directory.checkpoints) if resume else None
    state = read_state(checkpoint) if checkpoint else TrainerState()
    find_model(config.model.path)  # a download is not part of the run's time
    with open_judge(config, plugins, sources, task) as judge, ctrl_c() as interruption:
        torch.manual_seed(config.seed)
        loaded, learner = _load_learner(config, plugins, checkpoint)
        run = _Run(
            config,
            plugins,
            directory,
            loaded,
            learner,
            create_sampler(config, plugins, loaded),
            judge,
            train_prompts,
            held_out,
            interruption,
            state,
        )
        _write_beginnings(run, task, resume)
        try:
            with _trackers(run) as trackers:
                return _carry_out(run, trackers)
        finally:
            run.sampler.close()


def _load_learner(
    config: RunConfig, plugins: Plugins, checkpoint: Any
) -> tuple[LoadedModel, Learner]:
    here = config.model.model_copy(update={"path": str(checkpoint)}) if checkpoint else config.model
    loaded = load_policy(config.model_copy(update={"model": here}))
    reference = None
    if config.grpo.beta > 0:
        start = load_policy(config).model if checkpoint else copy.deepcopy(loaded.model)
        reference = start.requires_grad_(False)
        cast_model(reference, loaded.dtype)
    model = loaded.model
    layout = find_layout(model)
    if config.model.gradient_checkpointing:
        recompute_activations(model)
    masters = MasterWeights(model, loaded.dtype)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    if checkpoint is not None:
        load_optimizer(checkpoint, masters, optimizer)
    loss = plugins.losses[config.grpo.loss].load()
    return loaded, Learner(model, masters, optimizer, layout, loss, config, reference)


def _carry_out(run: _Run, trackers: Sequence[Any]) -> dict[str, Any]:
    """Evaluate, train, evaluate; always leaves a summary, a report, and a way to resume."""
    started = time.perf_counter() - run.state.seconds
    try:
        _work(run, trackers, started)
    except StopRequested:
        return _end(run, "interrupted", None, started)
    except Exception as error:  # noqa: BLE001 - raised again by _end
        return _end(run, "failed", error, started)
    return _end(run, "finished", None, started)


def _work(run: _Run, trackers: Sequence[Any], started: float) -> None:
    hook = run.plugins.manager.hook
    hook.grpo_run_started(run_directory=str(run.directory.path), config=resolved(run.config))
    _catch_up(run)
    for step in grpo_steps(
        run.learner,
        run.sampler,
        run.judge,
        run.train_prompts,
        run.plugins.advantages[run.config.grpo.advantage].load(),
        run.state.step + 1,
        on_progress=lambda done, total: run.progress("sample", done, total),
        on_scored=lambda number, groups: hook.grpo_rollouts_scored(step=number, groups=groups),
    ):
        _after_step(run, step, trackers, time.perf_counter() - started)
        run.interruption.check()
    _evaluate_now(run, run.held_out)


def _end(run: _Run, status: str, failure: Exception | None, started: float) -> dict[str, Any]:
    """Checkpoint, summary, report; in this order, so that the first matters most.

    What keeps the first from being written, such as a full disk, fails the run; the first failure
    is the one that is raised.
    """
    try:
        if run.state.step:
            run.save()
    except CheckpointError as error:
        status, failure = "failed", failure or error
    seconds = time.perf_counter() - started
    summary = summarise(
        run.config, run.directory, run.state, len(run.held_out), status, failure, seconds
    )
    try:
        run.directory.write_summary(summary)
        write_report(run.directory)
    except CheckpointError as error:
        failure = failure or error
    run.plugins.manager.hook.grpo_run_finished(summary=summary)
    if failure is not None:
        raise failure
    return summary


def _after_step(run: _Run, step: Step, trackers: Sequence[Any], seconds: float) -> None:
    # First of all: should anything below fail, the checkpoint must not call these weights older.
    run.state = replace(
        run.state,
        step=step.number,
        tokens=run.state.tokens + int(step.metrics["tokens"]),
        seconds=seconds,
    )
    run.directory.append_metrics(step.metrics)
    run.directory.write_rollouts(step.number, step.groups)
    for tracker in trackers:
        tracker.log(step.number, step.metrics)
    run.plugins.manager.hook.grpo_step_finished(step=step.number, metrics=step.metrics)
    if step.failure is not None:
        raise step.failure  # before the sampler is evaluated
    _evaluate_if_due(run)
    save_every = run.config.trainer.save_every
    if save_every and step.number % save_every == 0:
        run.save()


def _catch_up(run: _Run) -> None:
    """The evaluation of the step the run starts from, unless an earlier sitting took it."""
    step = run.state.step
    if step in [result["step"] for result in run.directory.read_evaluations()]:
        _note_best(run, run.directory.read_evaluation_rollouts(step))
    else:
        _evaluate_if_due(run)


def _evaluate_if_due(run: _Run) -> None:
    """Before the first step, and every so often; the evaluation after the last comes apart."""
    settings, step = run.config.evaluation, run.state.step
    if step == 0:
        _evaluate_now(run, run.held_out)
    elif settings.every and step % settings.every == 0 and step < run.config.trainer.steps:
        _evaluate_now(run, run.held_out[: settings.every_num_prompts])


def _evaluate_now(run: _Run, prompts: Sequence[Prompt]) -> None:
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


def _note_best(run: _Run, groups: Sequence[RolloutGroup]) -> bool:
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


def _write_beginnings(run: _Run, task: Task, resume: bool) -> None:
    if resume:
        run.directory.rewind(run.state.step)
    run.directory.write_config(resolved(run.config))
    if run.directory.read_manifest():
        return
    verifiers = [
        {"name": verifier.name, "version": run.plugins.verifiers[verifier.name].version}
        for verifier in chosen_verifiers(run.config, task)
    ]
    manifest = build_manifest(plugins=run.plugins.infos, verifiers=verifiers, seed=run.config.seed)
    trained = {prompt.text for prompt in run.train_prompts}
    overlap = sum(prompt.text in trained for prompt in run.held_out)
    layout = run.learner.layout.describe()
    run.directory.write_manifest(
        {
            **manifest,
            "layout": layout,
            "dtype": str(run.loaded.dtype),
            "train_test_overlap": overlap,
        }
    )


@contextmanager
def _trackers(run: _Run) -> Iterator[Sequence[Any]]:
    registry, path = run.plugins.trackers, str(run.directory.path)
    trackers = [registry[name].load()(path, resolved(run.config)) for name in run.config.trackers]
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()
