"""The policy that the KL of grpo.beta is measured from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.models.adapters import adapters_off
from grpo_core.training.policy import trainer_mode


@dataclass(frozen=True, slots=True)
class Reference:
    """A model that no gradient reaches: the starting one, or one that follows the policy.

    Attributes:
        model: in compute precision. A policy with adapters is its own reference: with them off it
            is the model it started from, and takes no memory twice.
    """

    model: PreTrainedModel

    @contextmanager
    def computing(self) -> Iterator[PreTrainedModel]:
        """While it lasts, the model computes the reference's log-probabilities."""
        with torch.no_grad(), trainer_mode(self.model), adapters_off(self.model):
            yield self.model

    @torch.no_grad()
    def follow(self, policy: Mapping[str, Tensor], rate: float) -> None:
        """Move the reference towards the policy: rate * policy + (1 - rate) * reference.

        Source: Gorbatovski et al. 2024, "Learn Your Reference Model", arXiv 2404.09656, eq. 5.

        Args:
            policy: float32 weights by parameter name.
            rate: in (0, 1]; at 1 the reference becomes a copy.
        """
        for name, parameter in self.model.named_parameters():
            parameter.copy_(torch.lerp(parameter.float(), policy[name], rate))

    def weights(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep of a reference that moves."""
        return {name: p.detach().contiguous() for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Put back what `weights` gave."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
