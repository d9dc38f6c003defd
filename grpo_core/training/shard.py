"""FSDP2: every process holds a share of each weight, its gradient and its moments.

A pass through a sharded model is a collective act: each layer's weights are gathered before it is
computed, and its gradients summed and shared out after it. So all processes must make the same
number of passes. Inside `unsharded` the weights are whole, and each goes its own way.

Source: Zhao et al. 2023, "PyTorch FSDP", arXiv 2304.11277; the second version is in torch as
`fully_shard`. A plain model passes through all functions here unchanged.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from grpo_core.models.load import cast_model
from grpo_core.training.policy import SCORE, score


def shard(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Share out the weights of a model, in place; collective.

    Trainable weights are kept in float32 and are the masters; passes compute with copies in
    `dtype`. Gradients are added up over the processes in float32, never averaged: the loss is
    divided by the counts of the whole batch already.

    Args:
        model: the same in every process, whole, in float32.
        dtype: that passes are computed in.
    """
    trained = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    cast_model(model, dtype)
    for name, parameter in model.named_parameters():
        if name in trained:
            parameter.data = trained[name]
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    precision = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    for part in [*layers, model]:  # the model last: it takes embedding, norm and head, tied or not
        # By default the outermost part stays whole after a pass without gradient, and those who
        # read its weights would meet a copy that goes stale.
        fully_shard(part, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
        assert isinstance(part, FSDPModule)  # which it has become
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has no sum with a factor
    # Backbone and head are called apart; as a method of the model both run under its hooks.
    setattr(model, SCORE, types.MethodType(score, model))
    register_fsdp_forward_method(model, SCORE)
    # FSDP looks for its outermost part in the first pass, which not every process may make.
    with unsharded(model), torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """While it lasts all weights are whole, in compute precision; collective on entry alone.

    Inside, weights are read by `named_parameters`; `state_dict` would share them out again.
    """
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    if not parts:
        yield
        return
    for part in parts:
        part.unshard()
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
        assert isinstance(model, FSDPModule)
        model.reset_iter_state()  # shares out again, and forgets passes that others did not make


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor, in place."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that every process has a share of, on the leader's CPU; collective.

    The others get an empty one: one copy of all weights is enough.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if dist.get_rank() == 0 else full.new_empty(0)


def spread(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's share of a tensor that every process has, shared out as `like` is."""
    if not isinstance(like, DTensor) or tensor.ndim == 0:  # AdamW counts its steps in a plain one
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
