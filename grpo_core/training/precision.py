"""Float32 master weights under a compute copy of lower precision.

At a learning rate of 1e-5 a bfloat16 weight swallows almost every update: the step is below half
of its last digit. Pure bfloat16 training therefore learns nothing (measured), and there is no
setting for it. The optimiser works on float32 weights; the model computes with rounded copies.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from grpo_core.models.load import cast_model


class MasterWeights:
    """The float32 weights and gradients of a model that computes in `dtype`.

    Builds the masters from the model as loaded, then casts the model to `dtype`. Gradients of
    every backward pass are added up in float32 as soon as they are known, so accumulation over
    micro-batches loses nothing and the model holds no gradients of its own. When `dtype` is
    float32 the model's own parameters are the masters.

    Attributes:
        parameters: the float32 weights by name.
        complete: False while some, but not all, changes of a training step have been made.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.complete = True
        self._gradients: dict[str, Tensor] = {}
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._shared = dtype == torch.float32
        if self._shared:
            self.parameters = trainable
            self._copies = trainable
            return
        self.parameters = {
            name: nn.Parameter(parameter.detach().clone()) for name, parameter in trainable.items()
        }
        cast_model(model, dtype)
        self._copies = {n: p for n, p in model.named_parameters() if p.requires_grad}
        for name, parameter in self._copies.items():
            parameter.register_post_accumulate_grad_hook(partial(self._move_gradient, name))

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model, in place."""
        if not self._shared:
            for name, copy in self._copies.items():
                copy.copy_(self.parameters[name])

    def _move_gradient(self, name: str, copy: Tensor) -> None:
        master = self.parameters[name]
        assert copy.grad is not None
        if master.grad is None:
            # The same memory in every step: new pages from the system cost more than the sum.
            kept = self._gradients.setdefault(name, torch.empty_like(master))
            master.grad = kept.copy_(copy.grad)
        else:
            master.grad += copy.grad
        copy.grad = None
