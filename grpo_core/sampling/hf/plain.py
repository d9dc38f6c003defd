"""Plain decoders: which models are, and where their weights stand.

A plain decoder is what LLaMA made common: normalisation by the root mean square before attention
and before a gated MLP, rotary positions, every earlier token in sight, queries that share keys and
values. Models are recognised by their exact class; what differs between them (biases, normalised
queries and keys, sizes) is read from their modules.

Source: Touvron et al. 2023, arXiv 2302.13971.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from grpo_core.sampling.hf.products import Linear, read_linear

_CLASSES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# The frequencies of the others depend on the longest sequence in the batch.
_ROPE_TYPES = ("default", "linear", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class Norm:
    """Normalisation by the root mean square.

    Attributes:
        weight: [H]
        epsilon: added to the mean square.
        scaled_weight: [H] sqrt(H) weight, in float32.
        least_size: [1] sqrt(H epsilon), in float32.
    """

    weight: Tensor
    epsilon: float
    scaled_weight: Tensor
    least_size: Tensor


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """The numbers of one layer; `query_norm` and `key_norm` only where a model has them."""

    attention_norm: Norm
    query: Linear
    key: Linear
    value: Linear
    output: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    scaling: float
    mlp_norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    activation: nn.Module


@dataclass(frozen=True, slots=True)
class PlainDecoder:
    """The numbers of a model.

    Attributes:
        embedding: [V, hidden]
        rotary: module that gives cosines and sines of positions.
        heads: of queries.
        kv_heads: of keys and values.
        head_size: numbers in each.
    """

    embedding: Tensor
    layers: list[DecoderLayer]
    norm: Norm
    head: Linear
    rotary: Any
    heads: int
    kv_heads: int
    head_size: int


def read_plain_decoder(model: PreTrainedModel) -> PlainDecoder | None:
    """The numbers of a plain decoder, in place; None if the model is none, or is altered."""
    if _class(model) not in _CLASSES or not _sees_all(model.config):
        return None
    inner: Any = model.model
    head = read_linear(model.get_output_embeddings())
    layers = [_read_layer(layer) for layer in inner.layers]
    if type(inner.embed_tokens) is not nn.Embedding or head is None or head.adapters:
        return None
    read = [layer for layer in layers if layer is not None]
    if len(read) < len(layers):
        return None
    attention = inner.layers[0].self_attn
    kv_heads = model.config.num_key_value_heads
    return PlainDecoder(
        embedding=inner.embed_tokens.weight,
        layers=read,
        norm=_norm(inner.norm),
        head=head,
        rotary=inner.rotary_emb,
        heads=kv_heads * attention.num_key_value_groups,
        kv_heads=kv_heads,
        head_size=attention.head_dim,
    )


def _class(model: nn.Module) -> type:
    """The class of a model, also when it is shared out among processes."""
    found = type(model)
    if FSDPModule in found.__bases__:
        return next(base for base in found.__bases__ if base is not FSDPModule)
    return found


def _sees_all(config: Any) -> bool:
    """Whether every layer sees every earlier token, at positions that stay as they are."""
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        has_window = getattr(config, "sliding_window", None) is not None
    else:
        has_window = any(kind != "full_attention" for kind in kinds)
    return not has_window and config.rope_parameters.get("rope_type") in _ROPE_TYPES


def _read_layer(layer: Any) -> DecoderLayer | None:
    attention, mlp = layer.self_attn, layer.mlp
    modules = {
        "query": attention.q_proj,
        "key": attention.k_proj,
        "value": attention.v_proj,
        "output": attention.o_proj,
        "gate": mlp.gate_proj,
        "up": mlp.up_proj,
        "down": mlp.down_proj,
    }
    linears: dict[str, Any] = {name: read_linear(module) for name, module in modules.items()}
    if None in linears.values():
        return None
    return DecoderLayer(
        attention_norm=_norm(layer.input_layernorm),
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        scaling=attention.scaling,
        mlp_norm=_norm(layer.post_attention_layernorm),
        activation=mlp.act_fn,
        **linears,
    )


def _norm(module: Any) -> Norm:
    weight, epsilon = module.weight.detach(), module.variance_epsilon
    scaled = weight.float() * len(weight) ** 0.5
    return Norm(weight, epsilon, scaled, scaled.new_full((1,), (len(weight) * epsilon) ** 0.5))
