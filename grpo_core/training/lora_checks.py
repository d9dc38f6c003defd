"""What can be found wrong with section [lora] before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError, DataError
from grpo_core.models.adapters import check_installed, targeted_layers


def check_lora_settings(config: RunConfig) -> None:
    """Rules between [lora] and other sections.

    Raises:
        MissingExtraError: if peft is not installed. ConfigError: if the reference shall move.
    """
    if config.lora.rank == 0:
        return
    check_installed("lora.rank > 0")
    if config.reference.sync_every > 0:
        raise ConfigError(
            f"reference.sync_every is {config.reference.sync_every}, but with lora.rank > 0 the "
            "reference is the model without its adapters, which stays as it is. Set "
            "reference.sync_every = 0, or lora.rank = 0 to train the whole model."
        )


def check_lora_layers(base: Path, config: RunConfig) -> str:
    """Look up the layers of lora.target_modules; says how much there is to train.

    Args:
        base: folder of the model; of its files only the config is read.
        config: with lora.rank > 0.

    Raises:
        ConfigError: if a name stands for no layer that can have an adapter. DataError: if the
            folder holds no causal language model that transformers knows.
    """
    trust = config.model.trust_remote_code
    try:
        shape = AutoConfig.from_pretrained(base, trust_remote_code=trust)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust)
    except ValueError as error:
        raise DataError(f"{base} holds no causal language model: {error}") from error
    layers = targeted_layers(model, config.lora).values()
    rank = config.lora.rank
    trained = sum(rank * sum(layer.weight.shape) for layer in layers)
    share = trained / model.num_parameters()
    return (
        f"{len(layers)} layers get adapters of rank {rank}: {trained:,} weights are trained, "
        f"{share:.2%} of the model's"
    )
