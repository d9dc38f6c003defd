"""What the engine asks of a model: to compute prompts, and one token more of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from grpo_core.sampling.hf.columns import LayerStates

if TYPE_CHECKING:
    from grpo_core.sampling.hf.memory import Memory


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Prompts that have been computed.

    Attributes:
        logits: [P, V] after the last token of each.
        states: keys and values of each layer, aligned at the last token.
        lengths: [P] tokens of each.
    """

    logits: Tensor
    states: Sequence[LayerStates]
    lengths: Sequence[int]

    def only(self, row: int) -> Prefilled:
        """One of them, in memory of its own."""
        length = self.lengths[row]
        part = slice(row, row + 1)
        states = [
            LayerStates(
                layer.keys[part, :, -length:].clone(), layer.values[part, :, -length:].clone()
            )
            for layer in self.states
        ]
        return Prefilled(self.logits[part].clone(), states, [length])


class Passes(Protocol):
    """Forward passes of one model, for as long as its weights stay as they are.

    Attributes:
        prompts_apart: whether it reads a prompt that is kept once for all rows that follow it.
    """

    prompts_apart: bool

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        """Compute prompts side by side."""
        ...

    def step(self, tokens: Sequence[int], positions: Sequence[int], memory: Memory) -> Tensor:
        """Compute one token more of every row, and add it to `memory`.

        Args:
            tokens: [B]
            positions: [B] how many tokens stand before each.
            memory: of the rows, with a column open for the token.

        Returns:
            [B, V] logits of what follows.
        """
        ...


def pad_left(
    prompts: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts aligned at their last token.

    Returns:
        token ids, mask (1 where there is a token), and positions, all [P, T].
    """
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)
