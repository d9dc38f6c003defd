"""A whole training run: evaluate, train, evaluate again, and leave everything in a directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from typing import Any

from grpo_core.assembly import (
    chosen_verifiers,
    create_estimator,
    create_task,
    evaluation_prompts,
    load_prompts,
    open_judge,
    with_split,
)
from grpo_core.config import RunConfig, resolved
from grpo_core.errors import CheckpointError
from grpo_core.models.find import find_model, model_chain
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.protocols import Task
from grpo_core.records.manifest import build_manifest
from grpo_core.records.report import write_report
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.checkpoint import (
    TrainerState,
    newest_checkpoint,
    read_ahead,
    read_state,
)
from grpo_core.training.health import alarms
from grpo_core.training.held_out import catch_up, evaluate_if_due, evaluate_now
from grpo_core.training.interruption import StopRequested, ctrl_c
from grpo_core.training.learner_setup import load_together
from grpo_core.training.loop import Step, grpo_steps
from grpo_core.training.process_samplers import create_run_sampler, describe_sampling
from grpo_core.training.resume import check_same_run, is_finished
from grpo_core.training.selection import create_prompt_source
from grpo_core.training.session import Session
from grpo_core.training.summary import summarise
from grpo_core.training.world import ProcessLost, World


def train(
    config: RunConfig,
    plugins: Plugins,
    sources: PluginSources,
    directory: RunDirectory,
    *,
    resume: bool = False,
    world: World | None = None,
) -> dict[str, Any]:
    """Run `config` in `directory`, from its newest checkpoint if `resume`.

    With several processes this is what the leader does; see `grpo_core.training.world`.

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
    model_chain(find_model(config.model.path))  # a download is not part of the run's time
    with open_judge(config, plugins, sources, task) as judge, ctrl_c() as interruption:
        plugins, loaded, learner = load_together(
            config, lambda: plugins, sources, checkpoint, world or World()
        )
        run = Session(
            config,
            plugins,
            directory,
            loaded,
            learner,
            create_run_sampler(config, plugins, loaded, learner),
            judge,
            train_prompts,
            held_out,
            create_prompt_source(config, train_prompts, state.selection),
            interruption,
            state,
            read_ahead(checkpoint) if checkpoint else None,
        )
        _write_beginnings(run, task, resume)
        try:
            with _trackers(run) as trackers:
                return _carry_out(run, trackers)
        finally:
            run.sampler.close()


def _carry_out(run: Session, trackers: Sequence[Any]) -> dict[str, Any]:
    """Evaluate, train, evaluate; always leaves a summary, a report, and a way to resume."""
    started = time.perf_counter() - run.state.seconds
    try:
        _work(run, trackers, started)
    except StopRequested:
        return _end(run, "interrupted", None, started)
    except Exception as error:  # noqa: BLE001 - raised again by _end
        return _end(run, "failed", error, started)
    return _end(run, "finished", None, started)


def _work(run: Session, trackers: Sequence[Any], started: float) -> None:
    hook = run.plugins.manager.hook
    hook.grpo_run_started(run_directory=str(run.directory.path), config=resolved(run.config))
    catch_up(run)
    steps = grpo_steps(
        run.learner,
        run.sampler,
        run.judge,
        run.train_prompts,
        run.source,
        create_estimator(run.config, run.plugins, run.judge, run.loaded.tokenizer),
        run.state.step + 1,
        kept=run.ahead,
        on_progress=lambda done, total: run.progress("sample", done, total),
        on_scored=lambda number, groups: hook.grpo_rollouts_scored(step=number, groups=groups),
    )
    with closing(steps):
        for step in steps:
            _after_step(run, step, trackers, time.perf_counter() - started)
            run.interruption.check()
    evaluate_now(run, run.held_out)


def _end(run: Session, status: str, failure: Exception | None, started: float) -> dict[str, Any]:
    """Checkpoint, report, summary; in this order: with a finished summary nothing is done again.

    What keeps the first from being written, such as a full disk, fails the run; the first failure
    is the one that is raised.
    """
    try:
        # Weights in the middle of a step are no checkpoint; the run goes on from the last one.
        if run.state.step and run.learner.is_sound:
            run.save()
    except (CheckpointError, ProcessLost) as error:
        status, failure = "failed", failure or error
    if isinstance(failure, ProcessLost):
        failure = _with_way_on(run, failure)
    seconds = time.perf_counter() - started
    summary = summarise(
        run.config, run.directory, run.state, len(run.held_out), status, failure, seconds
    )
    try:
        try:
            write_report(run.directory, summary)
        finally:
            run.directory.write_summary(summary)
    except CheckpointError as error:
        failure = failure or error
    run.plugins.manager.hook.grpo_run_finished(summary=summary)
    if failure is not None:
        raise failure
    return summary


def _with_way_on(run: Session, failure: ProcessLost) -> ProcessLost:
    newest = newest_checkpoint(run.directory.checkpoints)
    if newest is None:
        return ProcessLost(f"{failure} There is no checkpoint yet; start the run again.")
    return ProcessLost(f"{failure} Resume the run; it goes on from {newest}.")


def _after_step(run: Session, step: Step, trackers: Sequence[Any], seconds: float) -> None:
    # First of all: should anything below fail, the checkpoint must not call these weights older.
    run.state = replace(
        run.state,
        step=step.number,
        tokens=run.state.tokens + int(step.metrics["tokens"]),
        seconds=seconds,
        selection=step.selection,
    )
    run.ahead = step.ahead
    run.directory.append_metrics(step.metrics)
    run.directory.write_rollouts(step.number, step.groups)
    for tracker in trackers:
        tracker.log(step.number, step.metrics)
    run.plugins.manager.hook.grpo_step_finished(step=step.number, metrics=step.metrics)
    _raise_alarms(run)
    if step.failure is not None:
        raise step.failure  # before the sampler is evaluated
    evaluate_if_due(run)
    save_every = run.config.trainer.save_every
    if save_every and step.number % save_every == 0:
        run.save()


def _raise_alarms(run: Session) -> None:
    for alarm in alarms(run.directory.read_metrics()):
        run.directory.append_alarm(asdict(alarm))
        run.plugins.manager.hook.grpo_alarm_raised(
            step=alarm.step, name=alarm.name, message=alarm.message
        )


def _write_beginnings(run: Session, task: Task, resume: bool) -> None:
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
    layout = run.learner.describe_layout()
    run.directory.write_manifest(
        {
            **manifest,
            "layout": layout,
            "sampling": describe_sampling(run.config, run.loaded.model),
            "dtype": str(run.loaded.dtype),
            "processes": run.learner.world.size,
            "train_test_overlap": overlap,
        }
    )


@contextmanager
def _trackers(run: Session) -> Iterator[Sequence[Any]]:
    registry, path = run.plugins.trackers, str(run.directory.path)
    trackers = [registry[name].load()(path, resolved(run.config)) for name in run.config.trackers]
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()
