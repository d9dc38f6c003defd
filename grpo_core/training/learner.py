"""The parts an optimiser step works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from grpo_core.config import RunConfig
from grpo_core.kernels import native
from grpo_core.logprobs import Distribution
from grpo_core.losses.output import LossOutput
from grpo_core.training.policy import Layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.world import World


@dataclass(frozen=True, slots=True)
class Learner:
    """What an optimiser step works on.

    Attributes:
        model: the policy in compute precision. masters: its float32 weights.
        layout: how the model may be computed.
        loss: see `grpo_core.losses.grpo.grpo_loss`.
        reference: what the KL is measured from; None when beta is 0.
        world: the processes that hold it together, each with a share of the weights.
    """

    model: PreTrainedModel
    masters: MasterWeights
    optimizer: torch.optim.Optimizer
    layout: Layout
    loss: Callable[..., LossOutput]
    config: RunConfig
    reference: Reference | None = None
    world: World = field(default_factory=World)

    @property
    def is_sound(self) -> bool:
        """Whether the weights are those after a whole step, and can be saved."""
        return self.masters.complete and not self.world.is_broken

    def describe_layout(self) -> str:
        """How the model is computed, in one line for people."""
        layout = self.layout.describe()
        is_served = self.model.dtype is torch.bfloat16 and self.model.device.type == "cpu"
        if not (is_served and self.layout.share_prompts):
            return layout
        return f"{layout}, {native.describe()}"

    @property
    def distribution(self) -> Distribution:
        """What tokens are drawn from in training, given the logits."""
        sampling = self.config.sampling
        return Distribution(sampling.temperature, sampling.top_p, sampling.top_k)
