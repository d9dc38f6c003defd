"""What a checkpoint keeps of a model and its optimiser, gathered from all processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.models.adapter_files import fingerprint
from grpo_core.models.adapters import has_adapters
from grpo_core.training.precision import MasterWeights
from grpo_core.training.reference import Reference
from grpo_core.training.shard import unsharded, whole


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Whole tensors; in a single process the very ones that are trained.

    Attributes:
        weights: float32, by the model's own names, tied ones under each of them; of a model with
            adapters, those alone.
        moments: of the optimiser, by "parameter/moment".
        reference: weights of a reference that moves.
        base: fingerprint of the model under the adapters.
    """

    weights: Mapping[str, Tensor]
    moments: dict[str, Tensor]
    reference: dict[str, Tensor] | None
    base: str | None


def take_snapshot(
    model: PreTrainedModel,
    masters: MasterWeights,
    optimizer: torch.optim.Optimizer | None = None,
    moving_reference: Reference | None = None,
) -> Snapshot:
    """Gather what a checkpoint keeps; collective where the model is shared out."""
    base = None
    if has_adapters(model):
        with unsharded(model):
            base = fingerprint(model)
    trained = {name: whole(p.detach()) for name, p in masters.parameters.items()}
    moments = {
        f"{name}/{key}": whole(value).contiguous()
        for name, parameter in masters.parameters.items()
        for key, value in (optimizer.state[parameter] if optimizer else {}).items()
    }
    reference = None
    if moving_reference is not None:
        reference = {name: whole(value) for name, value in moving_reference.weights().items()}
    weights = trained if base is not None else _all_weights(model, trained)
    return Snapshot(weights, moments, reference, base)


def _all_weights(model: PreTrainedModel, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With those that are not trained, buffers, and tied ones under each of their names."""
    weights: dict[str, Tensor] = dict(model.state_dict())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for alias, parameter in model.named_parameters(remove_duplicate=False):
        if (master := trained.get(names[id(parameter)])) is not None:
            weights[alias] = master
    return {name: whole(value) for name, value in weights.items()}
