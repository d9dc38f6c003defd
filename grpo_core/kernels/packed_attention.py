"""Exact attention over a packed row, tile by tile.

    O = softmax(scaling Q K^T, over what a query may see) V

The forward pass keeps O and one number a query, the log of its softmax's denominator; the backward
pass computes the scores again (Dao et al. 2022, "FlashAttention", arXiv 2205.14135, section 3.1):

    P = exp(S - log-sum-exp)    dV = P^T dO    dS = P (dO V^T - rowsum(dO O))

so that memory is linear in the number of tokens. This is how CPUs do it, where torch has a fast
fused forward pass whose backward pass in bfloat16 is several times slower than these plain products
(measured). For other devices see `grpo_core.kernels.fused_attention`.

N places of the row, J key-value heads with R query heads each, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from grpo_core.kernels import native
from grpo_core.kernels.fused_attention import fused_attention
from grpo_core.kernels.tiles import Tile


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, tiles: Sequence[Tile], scaling: float
) -> Tensor:
    """Attention of every place of a packed row over what its segment lets it see.

    Args:
        query: [N, J*R, D]
        key: [N, J, D]
        value: [N, J, D]
        tiles: `grpo_core.kernels.tiles.cut` of the row's segments, on the same device.
        scaling: of the scores, usually D ** -0.5.

    Returns:
        [N, J*R, D] in the dtype of `value`; differentiable once. Softmax and sums are float32 at
        least, the products run in the inputs' dtype.
    """
    if query.device.type != "cpu":
        return fused_attention(query, key, value, tiles, scaling)
    output: Tensor = _PackedAttention.apply(query, key, value, tuple(tiles), scaling)
    return output


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        tiles: tuple[Tile, ...],
        scaling: float,
    ) -> Tensor:
        heads = _Heads(key.shape[1], query.shape[1] // key.shape[1], query.shape[2])
        # One place more, where the results of padding go.
        output = query.new_empty(len(query) + 1, query[0].numel())
        log_sums = query.new_empty(len(query) + 1, query.shape[1], dtype=_precise(query.dtype))
        queries, keys, values = (tensor.flatten(1) for tensor in (query, key, value))
        for tile in tiles:
            mixed, log_sum = _attend(tile, queries, keys, values, heads, scaling)
            output.index_copy_(0, tile.results, mixed)
            log_sums.index_copy_(0, tile.results, log_sum)
        log_sums[-1] = torch.inf  # padding gets no weight in the backward pass
        output = output[:-1]
        ctx.save_for_backward(query, key, value, output, log_sums)
        ctx.tiles, ctx.scaling, ctx.heads = tiles, scaling, heads
        return output.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, log_sums = ctx.saved_tensors
        heads: _Heads = ctx.heads
        number = log_sums.dtype
        overlap = (grad * output.view(grad.shape)).sum(-1, dtype=number)
        queries, keys, values, grads = (heads.by_head(t) for t in (query, key, value, grad))
        overlaps, log_sums = heads.by_head(overlap), heads.by_head(log_sums)
        grad_query = query.new_empty(len(log_sums), heads.per_kv * heads.size)
        grad_key = torch.zeros_like(keys, dtype=number)
        grad_value = torch.zeros_like(values, dtype=number)
        for tile in ctx.tiles:
            places = heads.places(tile, len(query))
            tile_queries = heads.rows(queries, places.queries, places)
            tile_keys = heads.rows(keys, places.keys, places)
            grad_mixed = heads.rows(grads, places.queries, places)
            log_sum = log_sums.index_select(0, places.results).view(places.num_products, -1, 1)
            shift = overlaps.index_select(0, places.queries).view(places.num_products, -1, 1)
            weights = _Weights(tile_queries @ tile_keys.transpose(1, 2), tile, log_sum, ctx.scaling)
            of_value = weights.rounded().transpose(1, 2) @ grad_mixed
            grad_value.index_add_(0, places.keys, of_value.view(-1, heads.size).to(number))
            grad_weights = grad_mixed @ heads.rows(values, places.keys, places).transpose(1, 2)
            grad_scores = weights.backward(grad_weights, shift)
            of_query = grad_scores @ tile_keys
            grad_query.index_copy_(0, places.results, of_query.view(-1, grad_query.shape[1]))
            of_key = grad_scores.transpose(1, 2) @ tile_queries
            grad_key.index_add_(0, places.keys, of_key.view(-1, heads.size).to(number))
        return (
            heads.by_place(grad_query)[:-1].mul_(ctx.scaling),
            heads.by_place(grad_key.mul_(ctx.scaling).to(key.dtype)),
            heads.by_place(grad_value.to(value.dtype)),
            None,
            None,
        )


class _Weights:
    """P of a tile's backward pass: exp of scaling scores - log-sum-exp, 0 where a key is hidden.

    Kept in float32 at least, or computed anew where the compiled pass does so.
    """

    def __init__(self, scores: Tensor, tile: Tile, log_sum: Tensor, scaling: float) -> None:
        self._dtype = scores.dtype
        self._compiled = None
        if native.serves(scores):
            orders = (tile.key_order, tile.query_order)
            self._compiled = partial(native.attention_weights, scores, *orders, log_sum, scaling)
            return
        hidden = tile.hidden(log_sum.dtype)
        heads = len(scores) // len(tile.query_order)
        by_head = scores.view(heads, *tile.query_order.shape, -1, scores.shape[-1])
        self._precise = torch.add(hidden, by_head, alpha=scaling).view(scores.shape)
        self._precise.sub_(log_sum).exp_()

    def rounded(self) -> Tensor:
        """[J*B, Q*R, K] in the dtype of the scores."""
        return self._compiled() if self._compiled else self._precise.to(self._dtype)

    def backward(self, grad_weights: Tensor, shift: Tensor) -> Tensor:
        """P (grad_weights - shift), which is dS, in the dtype of the scores; P is used up."""
        if self._compiled:
            return self._compiled(grad_weights, shift)
        return self._precise.mul_(grad_weights - shift).to(self._dtype)


def _attend(
    tile: Tile, query: Tensor, key: Tensor, value: Tensor, heads: _Heads, scaling: float
) -> tuple[Tensor, Tensor]:
    """What the B*Q queries of a tile get, and the logs of their softmaxes' denominators.

    Args:
        tile: of B segments.
        query: [N, J*R*D]
        key: [N, J*D]
        value: [N, J*D]
        heads: the sizes.
        scaling: of the scores.

    Returns:
        [B*Q, J*R*D] and [B*Q, J*R].
    """
    count = len(tile.query_order)
    queries, keys, values = (
        rows.index_select(0, places).view(count, -1, num_heads, heads.size).transpose(1, 2)
        for rows, places, num_heads in (
            (query, tile.queries, heads.num_kv * heads.per_kv),
            (key, tile.keys, heads.num_kv),
            (value, tile.keys, heads.num_kv),
        )
    )
    hidden = tile.hidden(query.dtype).transpose(1, 2)
    mixed, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        queries, keys, values, attn_mask=hidden, scale=scaling
    )
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1), log_sum.transpose(1, 2).flatten(0, 1)


class _Places(NamedTuple):
    """Where the rows of a tile lie in tensors laid out by head, for all heads.

    `results` are places among N+1, of which the last takes what padding computes; `num_products` is
    J*B.
    """

    queries: Tensor
    results: Tensor
    keys: Tensor
    num_products: int


class _Heads(NamedTuple):
    """J key-value heads of R query heads each, of D numbers.

    Laid out by head, [N, J*X] or [N, J*X, D] becomes [J*N, X] or [J*N, X*D]: the rows of one
    key-value head lie together, and those of a tile are operands of its products as they come.
    """

    num_kv: int
    per_kv: int
    size: int

    def by_head(self, tensor: Tensor) -> Tensor:
        """Lay out by head."""
        rows = tensor.reshape(len(tensor), self.num_kv, -1).transpose(0, 1)
        return rows.reshape(self.num_kv * len(tensor), -1)

    def by_place(self, rows: Tensor) -> Tensor:
        """[J*N, X*D] as [N, J*X, D]; a new tensor."""
        split = rows.view(self.num_kv, -1, rows.shape[1]).transpose(0, 1)
        return split.reshape(len(split), -1, self.size)

    def places(self, tile: Tile, num_places: int) -> _Places:
        """Where a tile's rows lie."""
        head = torch.arange(self.num_kv, device=tile.queries.device)[:, None]
        return _Places(
            (head * num_places + tile.queries).flatten(),
            (head * (num_places + 1) + tile.results).flatten(),
            (head * num_places + tile.keys).flatten(),
            self.num_kv * len(tile.query_order),
        )

    def rows(self, tensor: Tensor, at: Tensor, places: _Places) -> Tensor:
        """[J*B, ., D] of a tensor laid out by head."""
        return tensor.index_select(0, at).view(places.num_products, -1, self.size)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
