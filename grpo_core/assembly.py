"""Build the parts a config names: task, judge, model, and sampling engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_core.config import RunConfig, VerifierConfig
from grpo_core.errors import ConfigError, DataError, GrpoError, PluginError, unknown_name
from grpo_core.models.find import find_model, model_chain
from grpo_core.models.load import compute_dtype, load_model, load_tokenizer
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.protocols import Sampler, Task
from grpo_core.rewards import WeightedShaper
from grpo_core.rollout import AdvantageEstimator, Judge
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.offsets import token_locator
from grpo_core.step_advantages import Part, bind_estimator
from grpo_core.types import Prompt
from grpo_core.verification.budget import ErrorBudget
from grpo_core.verification.pool import VerifierPool, VerifierSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in float32, its tokenizer, and the dtype it shall compute in.

    `folder` has the model's config and weights; of an adapter, those of its base.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    dtype: torch.dtype


def create_task(config: RunConfig, plugins: Plugins) -> Task:
    """The task of section [task], its options checked.

    Raises:
        PluginError: if there is none of that name, or it is no task.
        ConfigError: if an option is wrong.
    """
    registration = plugins.tasks[config.task.name]
    task: Task = registration.create(config.task.options)
    parts = ("load", "splits", "evaluation_split", "default_verifier")
    missing = [part for part in parts if not hasattr(task, part)]
    if missing:
        raise PluginError(
            f"task '{registration.name}' of plugin '{registration.plugin.name}' "
            f"({registration.plugin.origin}) has no {', '.join(missing)}. "
            "See grpo_core.protocols.Task for what a task needs."
        )
    return task


def load_prompts(task: Task, split: str) -> Sequence[Prompt]:
    """The prompts of a split.

    Raises:
        ConfigError: if the task has no such split. DataError: if it is empty.
        PluginError: if the task fails, or returns something else.
    """
    if split not in task.splits:
        cure = "Training needs it." if split == "train" else "Set evaluation.split."
        raise ConfigError(unknown_name("split", split, task.splits, cure))
    try:
        prompts = task.load(split)
    except GrpoError:
        raise
    except Exception as error:  # a stranger's task may raise anything; we attribute it
        raise PluginError(
            f"task {type(task).__name__} cannot load split '{split}': {type(error).__name__}: "
            f"{error}. Repair its plugin or its options."
        ) from error
    is_list = isinstance(prompts, Sequence)
    if is_list and not len(prompts):
        raise DataError(f"split '{split}' of the task is empty: there is nothing to work on.")
    if not is_list or not isinstance(prompts[0], Prompt):
        raise PluginError(
            f"task {type(task).__name__} must return a list of Prompts for split '{split}', got "
            f"{prompts!r:.80}. Repair its plugin."
        )
    return prompts


def with_split(config: RunConfig, task: Task) -> RunConfig:
    """The config with evaluation.split filled in: the task's own where none is set."""
    split = config.evaluation.split or task.evaluation_split
    evaluation = config.evaluation.model_copy(update={"split": split})
    return config.model_copy(update={"evaluation": evaluation})


def evaluation_prompts(config: RunConfig, task: Task) -> Sequence[Prompt]:
    """The held-out prompts of section [evaluation]."""
    prompts = load_prompts(task, config.evaluation.split or task.evaluation_split)
    return prompts[: config.evaluation.num_prompts]


def chosen_verifiers(config: RunConfig, task: Task) -> Sequence[VerifierConfig]:
    """The verifiers of the config that give rewards, or the task's own; then those that watch.

    Raises:
        ConfigError: if one is named twice.
    """
    judges = [verifier for verifier in config.verifiers if not verifier.is_shadow]
    shadows = [verifier for verifier in config.verifiers if verifier.is_shadow]
    verifiers = [*(judges or [VerifierConfig(name=task.default_verifier)]), *shadows]
    names = [verifier.name for verifier in verifiers]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"verifiers: '{name}' is listed twice; give it one weight, or one shadow_rate. "
                "(Where only shadows are listed, the task's own verifier judges.)"
            )
    return verifiers


def create_shapers(config: RunConfig, plugins: Plugins) -> Sequence[WeightedShaper]:
    """The shapers of the config, options checked.

    Raises:
        PluginError: if there is none of that name. ConfigError: if an option is wrong.
    """
    return [
        WeightedShaper(
            shaper.name, shaper.weight, plugins.shapers[shaper.name].create(shaper.options)
        )
        for shaper in config.shapers
    ]


@contextmanager
def open_judge(
    config: RunConfig, plugins: Plugins, sources: PluginSources, task: Task
) -> Iterator[Judge]:
    """A judge with running worker processes, which end with the context.

    Raises:
        PluginError: if a verifier is unknown or cannot be loaded. ConfigError: if an option is
            wrong.
    """
    settings = config.verification
    verifiers = chosen_verifiers(config, task)
    for verifier in verifiers:
        plugins.verifiers[verifier.name]  # unknown names fail here, before a process starts
    with VerifierPool(
        [VerifierSpec(v.name, v.options, v.deadline) for v in verifiers],
        sources,
        workers=settings.workers,
        deadline=settings.deadline,
        memory_mb=settings.memory_mb,
    ) as pool:
        budget = ErrorBudget(settings.error_budget)
        judges = [verifier for verifier in verifiers if not verifier.is_shadow]
        shadows = [verifier for verifier in verifiers if verifier.is_shadow]
        yield Judge(pool, judges, create_shapers(config, plugins), settings, budget, shadows)


def create_estimator(
    config: RunConfig, plugins: Plugins, judge: Judge, tokenizer: PreTrainedTokenizerBase
) -> AdvantageEstimator:
    """The estimator of grpo.advantage, ready for groups of completions by this tokenizer.

    Raises:
        PluginError: if there is none of that name.
    """
    estimate = plugins.advantages[config.grpo.advantage].load()
    parts: list[Part] = [*judge.verifiers, *judge.shapers]
    return bind_estimator(estimate, parts, token_locator(tokenizer))


def load_policy(config: RunConfig, *, merge_adapter: bool = False) -> LoadedModel:
    """Fetch and load the model of section [model].

    Args:
        config: of the run or the evaluation.
        merge_adapter: add an adapter that model.path names into the weights; see `load_model`.

    Raises:
        DataError, ConfigError: as `grpo_core.models.load`.
    """
    folder = find_model(config.model.path)
    tokenizer = load_tokenizer(folder, config.model)
    model = load_model(folder, config.model, merge_adapter=merge_adapter)
    base = model_chain(folder)[-1]
    return LoadedModel(model, tokenizer, base, compute_dtype(config.trainer.dtype, model.device))


def create_sampler(config: RunConfig, plugins: Plugins, loaded: LoadedModel) -> Sampler:
    """The engine of sampling.engine over the loaded model.

    Raises:
        PluginError: if there is none of that name. MissingExtraError: if it is not installed.
    """
    create = plugins.samplers[config.sampling.engine].load()
    context = SamplerContext(loaded.model, loaded.tokenizer, str(loaded.folder), config.sampling)
    sampler: Sampler = create(context)
    return sampler
