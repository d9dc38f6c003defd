"""Which parts of a model `fused_layers` takes over, and that it gives them back."""

from __future__ import annotations

import pytest
from torch import nn
from transformers import PreTrainedModel

from grpo_core.training.fused_layers import fused_layers
from tiny_model import tiny_model


def parts(model: PreTrainedModel) -> set[str]:
    """Names of all norms, MLPs and attentions."""
    kinds = ("RMSNorm", "MLP", "Attention")
    return {name for name, part in model.named_modules() if type(part).__name__.endswith(kinds)}


def taken_over(model: nn.Module) -> set[str]:
    return {name for name, part in model.named_modules() if "forward" in vars(part)}


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_every_norm_mlp_and_attention_is_taken_over_and_given_back(family: str) -> None:
    changes = {"sliding_window": None} if family == "mistral" else {}
    model = tiny_model(family, **changes)
    with fused_layers(model):
        assert taken_over(model) == parts(model)
        assert len(parts(model)) >= 2 * 4 + 1  # of each layer two norms, MLP and attention
    assert not taken_over(model)


def test_an_mlp_with_another_gate_stays_as_it_is() -> None:
    model = tiny_model("llama", hidden_act="gelu")
    with fused_layers(model):
        assert taken_over(model) == {name for name in parts(model) if not name.endswith("mlp")}
