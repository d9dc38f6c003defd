"""LoRA: low-rank adapters beside frozen linear layers.

    y = W x + (alpha / rank) B A x

A starts with random numbers and B with zeros, so the adapted model starts as the model itself, and
with its adapters off it is that model again: the reference of a KL needs no copy. Source: Hu et al.
2021, "LoRA", arXiv 2106.09685.

peft puts the adapters in. The model stays of its class, and its output layer stays as it is; so
whatever computes the model need not know of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from grpo_core.config import LoraConfig
from grpo_core.errors import ConfigError, MissingExtraError, unknown_name

Layer = nn.Linear | Conv1D

ADAPTER = "default"  # the name peft gives an adapter where nobody names it


def check_installed(what: str) -> None:
    """Tell whether peft is there, without importing it.

    Raises:
        MissingExtraError: if it is not; `what` needs it.
    """
    if find_spec("peft") is None:
        raise MissingExtraError(what, "lora")


def add_lora(model: PreTrainedModel, settings: LoraConfig, seed: int, base: str) -> None:
    """Put new adapters into `model`, in place, and freeze the rest.

    Args:
        model: in float32.
        settings: section [lora], rank > 0.
        seed: decides A, whatever the device and whatever was drawn before.
        base: hub id or folder of the model, which is noted in checkpoints.

    Raises:
        ConfigError: if a name in lora.target_modules is no layer that can have an adapter.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    layers = targeted_layers(model, settings)
    config = PeftConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,  # the policy is trained as it samples, without dropout
        bias="none",
        # peft's own "all-linear" would have routers of experts in it as well.
        target_modules=sorted(layers),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # peft draws on the CPU, then moves
        try:
            inject_adapter_in_model(config, model, ADAPTER)
        except ValueError as error:
            raise ConfigError(
                f"a {type(model).__name__} cannot get adapters: {error} Name other layers in "
                "lora.target_modules, or set lora.rank = 0 to train the whole model."
            ) from error


def targeted_layers(model: PreTrainedModel, settings: LoraConfig) -> dict[str, Layer]:
    """The layers that lora.target_modules stands for, by name; weights are not read.

    "all-linear" is every linear layer but the output layer. A name in a list stands for each layer
    whose path is it, or ends in it after a dot.

    Raises:
        ConfigError: if a name stands for nothing, or for what gets no adapter; with those there
            are.
    """
    layers = _linear_layers(model)
    if isinstance(settings.target_modules, str):
        return layers
    known = sorted({path.rpartition(".")[2] for path in layers})
    found: dict[str, Layer] = {}
    for name in settings.target_modules:
        paths = [path for path, _ in model.named_modules() if f".{path}".endswith(f".{name}")]
        if not name or not paths:
            raise ConfigError(f"lora.target_modules: {unknown_name('layer', name, known)}")
        if strange := sorted(set(paths) - layers.keys()):
            kind = type(model.get_submodule(strange[0])).__name__
            raise ConfigError(
                f"lora.target_modules: '{name}' stands for '{strange[0]}' ({kind}), which gets "
                "no adapter; linear layers do, save the output layer. "
                f"Available: {', '.join(known)}."
            )
        found.update({path: layers[path] for path in paths})
    if not found:
        raise ConfigError(
            "lora.target_modules is empty, so nothing would be trained. Set it to 'all-linear', or "
            f"to some of {', '.join(known)}."
        )
    return found


def _linear_layers(model: PreTrainedModel) -> dict[str, Layer]:
    """All but the output layer; one that computes more, as some routers of experts do, is none."""
    head = model.get_output_embeddings()
    plain = (nn.Linear.forward, Conv1D.forward)
    return {
        name: cast("Layer", layer)
        for name, layer in model.named_modules()
        if getattr(type(layer), "forward", None) in plain and layer is not head
    }


def has_adapters(model: nn.Module) -> bool:
    """Whether some layer of the model has an adapter."""
    return getattr(model, "peft_config", None) is not None


@contextmanager
def adapters_off(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts, the model computes what it did before it got adapters, if it has some."""
    layers = list(_adapted(model).values()) if has_adapters(model) else []
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def merged_weights(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """The weights of the model without adapters that computes the same, by its own names.

    Sums are formed in float32. Tensors that have no adapter are the model's own, not copies.

    Raises:
        ConfigError: if an adapter is more than a product of two matrices.
    """
    weights = _stored(model)
    if not has_adapters(model):
        return weights
    _refuse_variants(model)
    for name, layer in _adapted(model).items():
        weight = weights.pop(f"{name}.base_layer.weight")
        product = layer.lora_B[ADAPTER].weight.float() @ layer.lora_A[ADAPTER].weight.float()
        if layer.fan_in_fan_out:
            product = product.T
        total = weight.float() + layer.scaling[ADAPTER] * product
        weights[f"{name}.weight"] = total.detach().to(weight.dtype)
        if f"{name}.base_layer.bias" in weights:
            weights[f"{name}.bias"] = weights.pop(f"{name}.base_layer.bias")
    return {name: weight for name, weight in weights.items() if ".lora_" not in name}


def _stored(model: PreTrainedModel) -> dict[str, Tensor]:
    """What `state_dict` gives, which would share out the weights of a sharded model again."""
    stored: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for path, part in model.named_modules():
        for leaf, buffer in part.named_buffers(recurse=False):
            if leaf not in part._non_persistent_buffers_set:
                stored[f"{path}.{leaf}" if path else leaf] = buffer
    return stored


def _refuse_variants(model: PreTrainedModel) -> None:
    plain = (".lora_A.", ".lora_B.")
    strange = [
        name
        for name in _stored(model)
        if ".modules_to_save." in name or (".lora_" in name and not any(p in name for p in plain))
    ]
    strange += [
        name
        for name, layer in _adapted(model).items()
        if not isinstance(layer.get_base_layer(), Layer) or layer.lora_variant
    ]
    if strange:
        raise ConfigError(
            f"the adapter of '{strange[0]}' is no plain LoRA, and cannot be handed to an engine "
            "with weights of its own. Set sampling.engine = 'hf'."
        )
