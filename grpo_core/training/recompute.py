"""Gradient checkpointing: compute activations again in the backward pass instead of keeping them.

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.

transformers has a switch for it that works in training mode only, where dropout is on as well; the
policy is trained in evaluation mode (see `grpo_core.training.policy.trainer_mode`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_core.errors import ConfigError


def recompute_activations(model: PreTrainedModel) -> None:
    """From now on keep the inputs of each layer only, wherever a gradient is wanted.

    Raises:
        ConfigError: if the model does not tell what its layers are.
    """
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(
            f"model.gradient_checkpointing is not possible with a {type(model).__name__}: its "
            "layers are not marked for it. Set it to false, and lower trainer.micro_batch_tokens."
        )
    for layer in layers:
        layer.forward = _recomputed(layer.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return run
