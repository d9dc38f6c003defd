"""Evaluate a model on held-out prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from grpo_core.assembly import (
    create_sampler,
    create_task,
    evaluation_prompts,
    load_policy,
    open_judge,
    with_split,
)
from grpo_core.config import RunConfig
from grpo_core.evaluation.pass_rates import pass_rates
from grpo_core.models.load import cast_model
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.protocols import Sampler, SamplingParams
from grpo_core.rollout import Judge, OnProgress, collect
from grpo_core.sampling.agreement import check_agreement
from grpo_core.sampling.base import derive_seed
from grpo_core.types import Prompt, RolloutGroup


def evaluate(
    prompts: Sequence[Prompt],
    sampler: Sampler,
    judge: Judge,
    config: RunConfig,
    *,
    step: int = 0,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Any], list[RolloutGroup]]:
    """Sample evaluation.num_samples completions for each prompt and rate them.

    The random numbers depend on the run's seed and the prompt alone, so evaluations of one run
    differ by the weights only.

    Returns:
        what `pass_rates` returns, with "step", "task", "split", "temperature" and "seconds"; and
        the judged groups.
    """
    settings = config.evaluation
    params = SamplingParams(
        max_new_tokens=config.sampling.max_new_tokens,
        temperature=settings.temperature,
        top_p=config.sampling.top_p,
        top_k=config.sampling.top_k,
        stop=config.sampling.stop,
        seed=derive_seed(config.seed, "evaluation"),
    )
    started = time.perf_counter()
    collection = collect(
        prompts,
        sampler,
        judge.without_shadows(),
        settings.num_samples,
        params,
        step=step,
        on_progress=on_progress,
    )
    result = {
        "step": step,
        "task": config.task.name,
        "split": settings.split,
        "temperature": settings.temperature,
        **pass_rates(collection.groups),
        "seconds": time.perf_counter() - started,
    }
    return result, collection.groups


def evaluate_model(
    config: RunConfig, plugins: Plugins, sources: PluginSources
) -> tuple[dict[str, Any], list[RolloutGroup]]:
    """Load the model of the config and evaluate it on the config's task, from nothing.

    Progress is reported through the hook `grpo_progress`.

    Raises:
        GrpoError: as the parts it is put together from.
    """
    task = create_task(config, plugins)
    config = with_split(config, task)
    prompts = evaluation_prompts(config, task)
    with open_judge(config, plugins, sources, task) as judge:
        loaded = load_policy(config)
        cast_model(loaded.model, loaded.dtype)
        sampler = create_sampler(config, plugins, loaded)

        def progress(done: int, total: int) -> None:
            plugins.manager.hook.grpo_progress(phase="evaluate", done=done, total=total)

        with closing(sampler):
            check_agreement(loaded.model, sampler, prompts, config.sampling)
            result, groups = evaluate(prompts, sampler, judge, config, on_progress=progress)
    return result, groups
