"""Faster forward and backward passes for parts that many models share.

A root mean square norm, a gated MLP and the rotary attention of Llama and its kin are written in
transformers as chains of small operations, each of which keeps its inputs for the backward pass.
While `fused_layers` lasts, such parts of a model compute the same in fewer passes over memory. They
call their own projections, so adapters, hooks and shared-out weights work as before.

Which parts can be: by what they are made of; whether the result is the same: `find_layout` tries it
on the model at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

from grpo_core.kernels.packed_attention import packed_attention
from grpo_core.kernels.rms_norm import rms_norm
from grpo_core.kernels.rotary import rotate
from grpo_core.kernels.swiglu import swiglu

_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
_MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
_ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")


@contextmanager
def fused_layers(model: PreTrainedModel) -> Iterator[None]:
    """While it lasts the parts of `model` that can be are computed the fast way.

    Attention then takes packed rows only; see `grpo_core.training.packed_attention`.
    """
    changed = []
    for module in model.modules():
        if (forward := _fused_forward(module)) is not None:
            changed.append((module, module.__dict__.get("forward")))
            module.forward = forward
    try:
        yield
    finally:
        for module, own in changed:
            if own is None:
                del module.forward
            else:
                module.forward = own


def has_fused_layers(model: PreTrainedModel) -> bool:
    """Whether there is any such part."""
    return any(_fused_forward(module) is not None for module in model.modules())


def _fused_forward(module: nn.Module) -> Callable[..., Any] | None:
    kind = type(module)
    if not kind.__module__.startswith("transformers.models."):
        return None
    if kind.__name__ in _NORMS:
        return partial(_norm, module)
    if kind.__name__ in _MLPS and isinstance(module.act_fn, SiLUActivation | nn.SiLU):
        return partial(_gated_mlp, module)
    if kind.__name__ in _ATTENTIONS and getattr(module, "sliding_window", None) is None:
        return partial(_attention, module)
    return None


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _gated_mlp(module: Any, x: Tensor) -> Tensor:
    down: Tensor = module.down_proj(swiglu(module.gate_proj(x), module.up_proj(x)))
    return down


def _attention(
    module: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    packed_tiles: Any = (),
    **_: Any,
) -> tuple[Tensor, None]:
    num_places = hidden_states.shape[1]
    cos, sin = (angles[0] for angles in position_embeddings)

    def heads(projection: nn.Module) -> Tensor:
        projected: Tensor = projection(hidden_states)
        return projected.view(num_places, -1, module.head_dim)

    query, key, value = map(heads, (module.q_proj, module.k_proj, module.v_proj))
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    query, key = rotate(query, cos, sin), rotate(key, cos, sin)
    mixed = packed_attention(query, key, value, packed_tiles, module.scaling)
    return module.o_proj(mixed.view(1, num_places, -1)), None
