"""Log-probabilities of whole token sequences by the trainer's own code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grpo_core.logprobs import Distribution
from grpo_core.training.dealing import pack
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import Layout, completion_logprobs, trainer_mode


@torch.no_grad()
def sequence_logprobs(
    model: PreTrainedModel, layout: Layout, sequences: Sequence[Sequence[int]], max_tokens: int
) -> list[Tensor]:
    """Log-probability, in nats at temperature 1, of every token of a sequence but the first.

    Args:
        model: in compute precision, all of its weights here.
        layout: how it may be computed.
        sequences: token ids.
        max_tokens: computed at once.

    Returns:
        for each sequence [T - 1] float64 on the CPU.
    """
    items = [
        TrainingCompletion(ids[:1], ids[1:], 0.0, [0.0] * (len(ids) - 1), place=at)
        for at, ids in enumerate(sequences)
    ]
    found = {}
    with trainer_mode(model, layout):
        for batch in pack(items, max_tokens, share_prompts=layout.share_prompts):
            batch = batch.to(model.device)
            values = completion_logprobs(model, batch, layout, Distribution()).double()
            places = batch.places.tolist()  # packing changes the order
            for at, row, mask in zip(places, values, batch.completion_mask, strict=True):
                found[at] = row[mask].double().cpu()
    return [found[at] for at in range(len(sequences))]
