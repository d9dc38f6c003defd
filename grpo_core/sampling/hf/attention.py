"""Attention of the newest token of every row over what is remembered.

Queries that share keys and values are laid side by side as rows of one product, so that each key
and value is read once for all of them. Where a prompt is kept once for several rows, theirs are
laid side by side, too, and the two parts of the softmax are put together by their normalisers:

    o = w o_prompt + (1 - w) o_own,   w = Z_prompt / (Z_prompt + Z_own)

Source: Juravsky et al. 2024, "Hydragen", arXiv 2402.05099; Dao et al. 2022, arXiv 2205.14135.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_core.sampling.hf.columns import Columns, LayerStates
from grpo_core.sampling.hf.memory import Memory


class NewestToken:
    """Attention of one token of each row, the same in every layer of a step."""

    def __init__(self, memory: Memory, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = memory
        self._mask = _additive(memory.columns, dtype, device)
        self._followers: _Followers | None = None
        if memory.prompts is not None:
            self._followers = _followers(memory.prompt_of, len(memory.prompts.spans), device)
            self._prompt_mask = _additive(memory.prompts, dtype, device)

    def __call__(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float
    ) -> Tensor:
        """Remember keys and values, and attend.

        Args:
            layer: its number.
            queries: [B, heads, size]
            keys: [B, kv_heads, size] of the new token.
            values: likewise.
            scaling: of the products.

        Returns:
            [B, kv_heads, heads / kv_heads, size], in the order of `queries`.
        """
        rows, kv_heads, size = keys.shape
        columns, prompts = self._memory.columns, self._memory.prompts
        columns.write(layer, keys, values)
        grouped = queries.view(rows, kv_heads, -1, size)
        own = columns.read(layer)
        if prompts is None or self._followers is None:
            return F.scaled_dot_product_attention(
                grouped, own.keys, own.values, attn_mask=self._mask, scale=scaling
            )
        here, own_norm = _with_normaliser(grouped, own, self._mask, scaling)
        there, prompt_norm = self._followers.attend(
            grouped, prompts.read(layer), self._prompt_mask, scaling
        )
        share = torch.sigmoid(prompt_norm - own_norm)[..., None]
        return torch.lerp(here.float(), there.float(), share)


@dataclass(frozen=True, slots=True)
class _Followers:
    """Which rows follow which prompt.

    Attributes:
        table: [P, M] rows that follow each prompt; shorter lists are filled up with row 0.
        place: [B] where each row stands in the table, laid flat.
    """

    table: Tensor
    place: Tensor

    def attend(
        self, queries: Tensor, prompts: LayerStates, mask: Tensor | None, scaling: float
    ) -> tuple[Tensor, Tensor]:
        """Attention of `queries` [B, kv_heads, R, size] over the prompt of each row.

        Returns:
            [B, kv_heads, R, size], and the logarithm of the normaliser, [B, kv_heads, R].
        """
        num_prompts, most = self.table.shape
        _, kv_heads, shared, size = queries.shape
        together = queries[self.table].transpose(1, 2).reshape(num_prompts, kv_heads, -1, size)
        result, norm = _with_normaliser(together, prompts, mask, scaling)
        apart = result.view(num_prompts, kv_heads, most, shared, size).transpose(1, 2)
        norms = norm.view(num_prompts, kv_heads, most, shared).transpose(1, 2)
        return (
            apart.reshape(-1, kv_heads, shared, size)[self.place],
            norms.reshape(-1, kv_heads, shared)[self.place],
        )


def _followers(prompt_of: Sequence[int], num_prompts: int, device: torch.device) -> _Followers:
    lists: list[list[int]] = [[] for _ in range(num_prompts)]
    ranks = []
    for row, prompt in enumerate(prompt_of):
        ranks.append(len(lists[prompt]))
        lists[prompt].append(row)
    most = max(map(len, lists))
    table = [rows + [0] * (most - len(rows)) for rows in lists]
    place = [prompt * most + rank for prompt, rank in zip(prompt_of, ranks, strict=True)]
    return _Followers(torch.tensor(table, device=device), torch.tensor(place, device=device))


def _with_normaliser(
    queries: Tensor, states: LayerStates, mask: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    attend: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    result, norm = attend(queries, states.keys, states.values, attn_mask=mask, scale=scaling)
    return result, norm


def _additive(columns: Columns, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """[B, 1, 1, width] 0 where a row has a token, else minus infinity; None if nowhere."""
    mask = columns.mask(device)
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, -torch.inf)[
        :, None, None
    ]
