"""Draw tokens from logits by inverse transform, with exact log-probabilities.

One uniform number decides one token, so a completion is reproducible from its seed alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_core.truncation import find_border

_BLOCK = 512  # vocabulary entries summed at once; two short cumulative sums replace one long one


def draw(
    logits: Tensor, uniforms: Tensor, *, temperature: float, top_p: float = 1.0, top_k: int = 0
) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(logits / temperature), truncated to top_k, then to top_p.

    Args:
        logits: [B, V], any floating dtype.
        uniforms: [B] in [0, 1).
        temperature: > 0, or 0 for the likeliest token.
        top_p: keep the smallest set of likeliest tokens whose probability reaches it; ties stay
            together.
        top_k: keep this many, and what is exactly as likely as the last; 0 keeps all.

    Returns:
        token ids [B], and their log-probabilities [B], float32 nats, under exactly that
        distribution: renormalised after truncation, and 0 (certainty) for temperature 0. NaN where
        the logits hold NaN or +infinity, which no token stands for.
    """
    if temperature == 0:
        highest = logits.amax(dim=-1)
        return logits.argmax(dim=-1), (highest - highest).float()
    weights = _weights(logits, temperature, top_p, top_k)
    tokens, total = _inverse_transform(weights, uniforms)
    chosen = weights.gather(-1, tokens[:, None]).squeeze(-1)
    return tokens, torch.log(chosen) - torch.log(total).float()


def _weights(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """[B, V] float32, in proportion to the probabilities; NaN where the logits are no numbers."""
    is_whole = not top_k and top_p == 1
    if is_whole and temperature == 1:
        return torch.softmax(logits, dim=-1, dtype=torch.float32)  # reads each row once
    shifted = logits.float() - logits.amax(dim=-1, keepdim=True)
    if temperature != 1:
        shifted /= temperature
    if not is_whole:
        shifted.masked_fill_(shifted < find_border(shifted, top_p, top_k), -torch.inf)
    return shifted.exp_()


def _inverse_transform(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """First index at which the cumulative weight exceeds uniform * total; and the total, float64.

    The row is cut into blocks: the block is found first, then the entry within it.
    """
    rows, vocabulary = weights.shape
    if missing := -vocabulary % _BLOCK:
        weights = torch.nn.functional.pad(weights, (0, missing))
    blocks = weights.view(rows, -1, _BLOCK)
    block_sums = blocks.sum(dim=-1).double()
    cumulative = block_sums.cumsum(dim=-1)
    total = cumulative[:, -1]
    target = (uniforms.to(total) * total)[:, None]
    # Rounding can put the target at the very end: the last block with any weight takes it.
    last = (block_sums > 0).int().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    block = torch.minimum((cumulative <= target).sum(dim=-1, keepdim=True), last)
    before = cumulative.gather(-1, block) - block_sums.gather(-1, block)
    entries = blocks.gather(1, block[:, :, None].expand(-1, 1, _BLOCK)).squeeze(1)
    inner = entries.double().cumsum(dim=-1)
    last = (entries > 0).int().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    # Clamped at 0, or rounding below it would choose an entry without weight.
    within = (target - before).clamp(min=0)
    entry = torch.minimum((inner <= within).sum(dim=-1, keepdim=True), last)
    return (block * _BLOCK + entry).squeeze(-1), total
