"""Load policy, reference and optimiser state: at the start of a run, or where it left off."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel

from grpo_core.assembly import LoadedModel, load_policy
from grpo_core.config import RunConfig, resolved
from grpo_core.models.adapter_files import is_adapter, restore_adapter
from grpo_core.models.adapters import add_lora
from grpo_core.models.find import absolute_name, find_model
from grpo_core.models.load import cast_model
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.training.checkpoint import load_optimizer, load_reference
from grpo_core.training.learner import Learner
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import Layout, find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.recompute import recompute_activations
from grpo_core.training.reference import Reference
from grpo_core.training.shard import shard
from grpo_core.training.world import World


def load_together(
    config: RunConfig,
    plugins: Callable[[], Plugins],
    sources: PluginSources,
    checkpoint: Path | None,
    world: World,
) -> tuple[Plugins, LoadedModel, Learner]:
    """What every process begins with: plugins, model, and its share of all that is trained.

    Raises:
        GrpoError: as `load_learner`, in every process if in one.
    """
    order = world.order(
        "load",
        config=resolved(config),
        files=sources.files,
        use_entry_points=sources.use_entry_points,
        checkpoint=None if checkpoint is None else str(checkpoint.absolute()),
    )
    with order:
        loaded_plugins = world.together(plugins)
        torch.manual_seed(config.seed)
        loaded, learner = load_learner(config, loaded_plugins, checkpoint, world)
    return loaded_plugins, loaded, learner


def load_learner(
    config: RunConfig, plugins: Plugins, checkpoint: Path | None, world: World | None = None
) -> tuple[LoadedModel, Learner]:
    """The model and all that trains it; collective, each process keeps a share of the weights.

    Args:
        config: of the run.
        plugins: where the loss is registered.
        checkpoint: what a resumed run goes on from; None at the start.
        world: the processes that train together; None for this one alone.

    Raises:
        DataError, ConfigError: as `grpo_core.models.load`. CheckpointError: if the checkpoint
            cannot be read.
    """
    world = world or World()
    loaded, reference = world.together(lambda: _load_models(config, checkpoint))
    model = loaded.model
    layout = _same_layout(model, world)
    if config.model.gradient_checkpointing:
        recompute_activations(model)
    dtype = loaded.dtype
    if world.size > 1:
        shard(model, dtype)
        if reference is not None and reference.model is not model:
            shard(reference.model, dtype)
        dtype = torch.float32  # the shares are the masters
    masters = MasterWeights(model, dtype)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    if checkpoint is not None:
        world.together(lambda: load_optimizer(checkpoint, masters, optimizer))
        if reference is not None and config.reference.sync_every:
            world.together(lambda: load_reference(checkpoint, reference))
    loss = world.together(lambda: plugins.losses[config.grpo.loss].load())
    return loaded, Learner(model, masters, optimizer, layout, loss, config, reference, world)


def _load_models(
    config: RunConfig, checkpoint: Path | None
) -> tuple[LoadedModel, Reference | None]:
    loaded = _load_trainable(config, checkpoint)
    reference = _load_reference(config, loaded, checkpoint) if config.grpo.beta > 0 else None
    return loaded, reference


def _same_layout(model: PreTrainedModel, world: World) -> Layout:
    """The leader's: processes that lay out batches in other ways would wait for ever."""
    found = world.gather(lambda: json.dumps(asdict(find_layout(model))).encode())
    return Layout(**json.loads(found[0]))


def _load_trainable(config: RunConfig, checkpoint: Path | None) -> LoadedModel:
    """The model, all of whose weights are to be trained; with adapters, only theirs."""
    path = config.model.path
    if config.lora.rank == 0:
        here = config.model.model_copy(update={"path": str(checkpoint or path)})
        return load_policy(config.model_copy(update={"model": here}), merge_adapter=True)
    loaded = load_policy(config, merge_adapter=True)
    add_lora(loaded.model, config.lora, config.seed, absolute_name(path))
    if checkpoint is not None:
        # Sums of merged weights may be rounded in another way on another machine.
        is_merged = is_adapter(find_model(path))
        restore_adapter(loaded.model, checkpoint, check_base=not is_merged)
    return loaded


def _load_reference(config: RunConfig, loaded: LoadedModel, checkpoint: Path | None) -> Reference:
    if config.lora.rank > 0:
        return Reference(loaded.model)
    if checkpoint is None:
        start = copy.deepcopy(loaded.model)
    else:
        start = load_policy(config, merge_adapter=True).model
    start.requires_grad_(False)
    cast_model(start, loaded.dtype)
    return Reference(start)
