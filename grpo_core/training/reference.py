"""The policy that the KL of grpo.beta is measured from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.models.adapters import adapters_off
from grpo_core.training.policy import Layout, trainer_mode
from grpo_core.training.shard import spread


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that no gradient reaches: the starting one, or one that follows the policy.

    Attributes:
        model: in compute precision. A policy with adapters is its own reference: with them off it
            is the model it started from, and takes no memory twice.
    """

    model: PreTrainedModel
    # Of a model of lower precision that has moved a part of the way: a small move is below half of
    # a bfloat16 weight's last digit, and one after the other would be lost.
    _masters: dict[str, Tensor] = field(default_factory=dict, init=False)

    @contextmanager
    def computing(self, layout: Layout) -> Iterator[PreTrainedModel]:
        """While it lasts, the model computes the reference's log-probabilities."""
        with torch.no_grad(), trainer_mode(self.model, layout), adapters_off(self.model):
            yield self.model

    @torch.no_grad()
    def follow(self, policy: Mapping[str, Tensor], rate: float) -> None:
        """Move the reference towards the policy: rate * policy + (1 - rate) * reference.

        Source: the soft update of Gorbatovski et al. 2024, "Learn Your Reference Model", arXiv
        2404.09656; at rate 1 it is their hard one.

        Args:
            policy: float32 weights by parameter name.
            rate: in (0, 1]; at 1 the reference becomes a copy.
        """
        for name, parameter in self.model.named_parameters():
            moved = torch.lerp(self._masters.get(name, parameter).float(), policy[name], rate)
            parameter.copy_(moved)
            if rate < 1 and parameter.dtype != torch.float32:
                self._masters[name] = moved

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep of a reference that moves."""
        return {
            name: self._masters.get(name, p).detach().contiguous()
            for name, p in self.model.named_parameters()
        }

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `weights` gave, in each process its share."""
        for name, parameter in self.model.named_parameters():
            saved = spread(weights[name].to(parameter.device), parameter)
            parameter.copy_(saved)
            if saved.dtype != parameter.dtype:
                self._masters[name] = saved
