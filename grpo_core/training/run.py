"""A whole training run: evaluate, train, evaluate again, and leave everything in a directory."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
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
)
from grpo_core.config import RunConfig, resolved
from grpo_core.errors import CheckpointError
from grpo_core.evaluation.pass_rates import pass_rates
from grpo_core.evaluation.run import evaluate
from grpo_core.models.load import find_model
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

    def save(self) -> str:
        """Write a checkpoint of the current state and drop those no longer wanted."""
        path = save_checkpoint(
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
        return str(path)

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
    with status "failed", and is raised again.

    Returns:
        the summary, which is also in summary.json.

    Raises:
        GrpoError: if the run cannot be set up, or fails.
    """
    task = create_task(config, plugins)
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
    start = load_policy(config)
    reference = None
    if config.grpo.beta > 0:
        reference = copy.deepcopy(start.model).to(start.dtype).requires_grad_(False)  # type: ignore[arg-type]
        reference.eval()
    loaded = start
    if checkpoint is not None:
        path = config.model.model_copy(update={"path": str(checkpoint)})
        loaded = load_policy(config.model_copy(update={"model": path}))
    model = loaded.model
    layout = find_layout(model)
    if config.model.gradient_checkpointing:
        model.gradient_checkpointing_enable()
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
    except Exception as error:
        # Whatever it was, what was learned so far is kept; a failure to keep it must not hide it.
        with suppress(CheckpointError):
            _end(run, "failed", error, started)
        raise
    return _end(run, "finished", None, started)


def _work(run: _Run, trackers: Sequence[Any], started: float) -> None:
    hook = run.plugins.manager.hook
    hook.grpo_run_started(run_directory=str(run.directory.path), config=resolved(run.config))
    _evaluate_before(run)
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
    """Checkpoint, summary, report; in this order, so that the first matters most."""
    saved = run.save() if run.state.step else None
    summary = _summary(run, status, failure, saved, time.perf_counter() - started)
    run.directory.write_summary(summary)
    write_report(run.directory)
    run.plugins.manager.hook.grpo_run_finished(summary=summary)
    return summary


def _after_step(run: _Run, step: Step, trackers: Sequence[Any], seconds: float) -> None:
    run.directory.write_rollouts(step.number, step.groups)
    run.directory.append_metrics(step.metrics)
    run.state = replace(
        run.state,
        step=step.number,
        tokens=run.state.tokens + int(step.metrics["tokens"]),
        seconds=seconds,
    )
    for tracker in trackers:
        tracker.log(step.number, step.metrics)
    run.plugins.manager.hook.grpo_step_finished(step=step.number, metrics=step.metrics)
    settings = run.config.evaluation
    is_last = step.number == run.config.trainer.steps
    if settings.every and step.number % settings.every == 0 and not is_last:
        _evaluate_now(run, run.held_out[: settings.every_num_prompts])
    save_every = run.config.trainer.save_every
    if save_every and step.number % save_every == 0:
        run.save()


def _evaluate_before(run: _Run) -> None:
    """The untrained model; once only, also over several sittings."""
    known = [result["step"] for result in run.directory.read_evaluations()]
    if 0 not in known and run.state.step == 0:
        _evaluate_now(run, run.held_out)


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
    score = _comparable_pass_rate(run.config, groups)
    if score is not None and score > run.state.best_pass_at_1:
        run.state = replace(run.state, best_step=step, best_pass_at_1=score)
        if step:
            run.save()


def _comparable_pass_rate(config: RunConfig, groups: Sequence[RolloutGroup]) -> float | None:
    """pass@1 by the binary verdict on the prompts that every evaluation of the run has."""
    settings = config.evaluation
    common = min(settings.num_prompts, settings.every_num_prompts) if settings.every else None
    rate = pass_rates(groups[:common])["pass_at_1"]
    return None if rate is None else float(rate["mean"])


def _write_beginnings(run: _Run, task: Task, resume: bool) -> None:
    if resume:
        run.directory.rewind(run.state.step)
        return
    verifiers = [
        {"name": verifier.name, "version": run.plugins.verifiers[verifier.name].version}
        for verifier in chosen_verifiers(run.config, task)
    ]
    run.directory.write_config(resolved(run.config))
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


def _summary(
    run: _Run, status: str, failure: Exception | None, saved: str | None, seconds: float
) -> dict[str, Any]:
    evaluations = {result["step"]: result for result in run.directory.read_evaluations()}
    full = len(run.held_out)
    after = evaluations.get(run.state.step) if run.state.step else None
    is_complete = after is not None and after["num_prompts"] == full
    return {
        "status": status,
        "error": None if failure is None else str(failure),
        "model": run.config.model.path,
        "task": run.config.task.name,
        "seed": run.config.seed,
        "steps": run.state.step,
        "pass_at_1_before": _rate(evaluations.get(0)),
        "pass_at_1_after": _rate(after) if is_complete else None,
        "best": {"step": run.state.best_step, "pass_at_1": max(0.0, run.state.best_pass_at_1)},
        "seconds": seconds,
        "tokens": run.state.tokens,
        "checkpoint": saved,
        "state": asdict(run.state),
    }


def _rate(result: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    return None if result is None else result["pass_at_1"]
