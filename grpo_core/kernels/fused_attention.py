"""The same attention on devices for which torch has fused kernels with both passes.

All queries and keys of the tiles are gathered at once, every tile is one call of torch's
`scaled_dot_product_attention`, and autograd goes back through it. Fused kernels keep no scores, so
memory is linear in the tiles' places, in which a prompt's keys stand once for each completion.

N places of the row, H heads, J key-value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from grpo_core.kernels.tiles import Tile


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, tiles: Sequence[Tile], scaling: float
) -> Tensor:
    """As `grpo_core.kernels.packed_attention.packed_attention`, [N, H, D]."""
    queries = _gather(query, [tile.queries for tile in tiles])
    keys, values = (_gather(rows, [tile.keys for tile in tiles]) for rows in (key, value))
    repeats = query.shape[1] // key.shape[1]
    mixed = [
        scaled_dot_product_attention(
            _heads_first(tile_queries, tile),
            _heads_first(tile_keys, tile).repeat_interleave(repeats, 1),
            _heads_first(tile_values, tile).repeat_interleave(repeats, 1),
            attn_mask=tile.hidden(query.dtype).transpose(1, 2),
            scale=scaling,
        )
        for tile, tile_queries, tile_keys, tile_values in zip(
            tiles, queries, keys, values, strict=True
        )
    ]
    found = torch.cat([tile.transpose(1, 2).flatten(0, 1) for tile in mixed])
    results = torch.cat([tile.results for tile in tiles])
    # Where the result of each place stands; one place more takes what padding computes.
    at = results.new_empty(len(query) + 1)
    at[results] = torch.arange(len(results), device=results.device)
    return found.index_select(0, at[:-1])


def _heads_first(rows: Tensor, tile: Tile) -> Tensor:
    """[B*X, H, D] as [B, H, X, D]."""
    return rows.unflatten(0, (len(tile.query_order), -1)).transpose(1, 2)


def _gather(rows: Tensor, places: Sequence[Tensor]) -> Sequence[Tensor]:
    gathered: Tensor = _Gather.apply(rows, torch.cat(list(places)))
    return gathered.split([len(part) for part in places])


class _Gather(torch.autograd.Function):
    """`index_select` whose gradient is summed in float32 at least: a prompt is in many tiles."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        precise = torch.promote_types(grad.dtype, torch.float32)
        total = grad.new_zeros(ctx.count, *grad.shape[1:], dtype=precise)
        return total.index_add_(0, places, grad.to(precise)).to(grad.dtype), None
