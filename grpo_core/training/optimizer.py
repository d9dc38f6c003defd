"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from grpo_core.config import TrainerConfig


def create_optimizer(
    parameters: Mapping[str, nn.Parameter], config: TrainerConfig
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over float32 weights; norms and biases do not decay.

    The moments get their memory now, before anything else comes and goes: taken in the first step
    they would lie among what the passes leave, and hold gaps open for the rest of the run.
    """
    matrices = [p for p in parameters.values() if p.ndim >= 2]
    vectors = [p for p in parameters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        fused=True,
    )
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def learning_rate(config: TrainerConfig, step: int) -> float:
    """The rate of optimiser step `step`, which counts from 1.

    Rises linearly over the warm-up, then stays constant, or falls to zero at the step after the
    last, linearly or along half a cosine.
    """
    warmup = min(1.0, step / (config.warmup_steps + 1))
    span = max(1, config.steps - config.warmup_steps)
    done = min(1.0, max(0.0, (step - 1 - config.warmup_steps) / span))
    decay = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[config.schedule]
    return config.learning_rate * warmup * decay


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
