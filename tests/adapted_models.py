"""Tiny models with adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.config import LoraConfig, ModelConfig
from grpo_core.models.adapters import add_lora
from tiny_model import tiny_model

CPU = ModelConfig(device="cpu")
RANK, ALPHA = 3, 7.5
_IDS = torch.tensor([[5, 60, 7, 80, 9, 30, 40, 101]])


def adapted(
    family: str = "llama", *, seed: int = 1, moved: bool = True, base: str = "", **changes: Any
) -> PreTrainedModel:
    """A tiny model with adapters, which `moved` takes away from their start at zero."""
    model = tiny_model(family, **changes)
    add_lora(model, LoraConfig(rank=RANK, alpha=ALPHA), seed, base)
    if moved:
        move(model)
    return model


@torch.no_grad()
def move(model: PreTrainedModel, size: float = 0.2) -> None:
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=_IDS).logits
