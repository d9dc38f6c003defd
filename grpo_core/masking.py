"""Masks and weights that turn per-token values into one number.

A loss is a weighted sum, `loss = sum(per_token * weights)`. The denominators inside the weights
are those of the *whole* batch and are passed in, so the parts of a batch simply add up: micro-batch
size, padding, gradient accumulation and world size cannot change loss or gradient. (Across
processes, gradients are therefore summed, not averaged.)

Masked positions may hold anything, NaN and infinity included: `zero_masked` replaces them before
they meet any arithmetic, because NaN * 0 is NaN, in the gradient too.

Shape letters: B completions, T tokens of a completion.
"""

from __future__ import annotations

from typing import Literal

import torch

from grpo_core.errors import ConfigError, ShapeError, unknown_name

Aggregation = Literal["sequence_mean", "token_mean", "token_sum", "constant"]

AGGREGATIONS: tuple[Aggregation, ...] = ("sequence_mean", "token_mean", "token_sum", "constant")


def as_mask(mask: torch.Tensor, name: str = "mask") -> torch.Tensor:
    """`mask` as a bool tensor of the same shape.

    Args:
        mask: bool, or any other dtype that holds 0 and 1 only.
        name: what messages call it.

    Raises:
        ShapeError: if it holds anything but 0 and 1; a soft weight would be rounded up to 1.
    """
    if mask.dtype == torch.bool:
        return mask
    as_bool = mask != 0
    strange = mask[as_bool & (mask != 1)]
    if strange.numel():
        raise ShapeError(
            f"{name} must hold 0 and 1 only, got {strange[0].item()}: a position counts or it "
            "does not. Put weights into the weights argument."
        )
    return as_bool


def zero_masked(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`values` where `mask` holds, exactly 0 elsewhere, with a gradient of exactly 0 there.

    Args:
        values: any float tensor.
        mask: of the same shape, True on what counts.

    Raises:
        ShapeError: if the shapes differ.
    """
    if values.shape != mask.shape:
        raise ShapeError(
            f"values and mask must have one shape, got {list(values.shape)} and "
            f"{list(mask.shape)}: broadcasting a mask hides mistakes. Expand the smaller one."
        )
    return torch.where(as_mask(mask), values, 0)


def masked_sum(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Sum of the values where `mask` holds; 0 where it never does.

    Args:
        values: any float tensor.
        mask: of the same shape.
        dim: the dimension to sum over; None sums everything to a scalar.

    Raises:
        ShapeError: if the shapes differ.
    """
    return zero_masked(values, mask).sum(dim)


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of the values where `mask` holds; 0 where it never does.

    Args:
        values: any float tensor.
        mask: of the same shape.
        dim: the dimension to average over; None averages everything to a scalar.

    Raises:
        ShapeError: if the shapes differ.
    """
    return masked_sum(values, mask, dim) / as_mask(mask).sum(dim).clamp(min=1)


def token_weights(
    mask: torch.Tensor,
    how: Aggregation,
    *,
    num_completions: int,
    num_tokens: int,
    max_new_tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The share of each token in the loss of the whole batch.

    | how           | weight of a trained token            | source                               |
    |---------------|--------------------------------------|--------------------------------------|
    | sequence_mean | 1 / (completions * its own length)   | Shao et al. 2024, arXiv 2402.03300   |
    | token_mean    | 1 / tokens                           | DAPO, Yu et al. 2025, 2503.14476     |
    | token_sum     | 1 / completions                      | sum over t, expectation over samples |
    | constant      | 1 / (completions * max_new_tokens)   | Dr. GRPO, Liu et al. 2025, 2503.20783|

    An empty completion is legal: it adds nothing, but it is one of `num_completions`.

    Args:
        mask: [B, T] True on trained tokens of this part of the batch.
        how: see the table.
        num_completions: of the whole batch, over all micro-batches and processes, empty completions
            and those that are not computed because their advantage is 0 included.
        num_tokens: trained tokens of the whole batch, in the same sense.
        max_new_tokens: the sampling limit; read by "constant" only.
        dtype: of the weights.

    Returns:
        [B, T] weights, 0 where masked.

    Raises:
        ConfigError: if `how` is unknown, or "constant" comes without a positive `max_new_tokens`.
        ShapeError: if `mask` is not [B, T], or a count is smaller than what `mask` itself holds.
    """
    if mask.ndim != 2:
        raise ShapeError(f"mask must be [B, T], got {list(mask.shape)}: weights belong to tokens.")
    mask = as_mask(mask)
    lengths = mask.sum(-1, keepdim=True)
    _check_counts(lengths, num_completions, num_tokens)
    denominator: int | torch.Tensor
    match how:
        case "sequence_mean":
            denominator = num_completions * lengths.clamp(min=1)
        case "token_mean":
            denominator = max(num_tokens, 1)
        case "token_sum":
            denominator = num_completions
        case "constant":
            denominator = num_completions * _positive(max_new_tokens)
        case _:
            raise ConfigError(unknown_name("aggregation", str(how), AGGREGATIONS))
    return mask.to(dtype) / denominator


def _check_counts(lengths: torch.Tensor, num_completions: int, num_tokens: int) -> None:
    """Refuse counts that cannot be those of the whole batch."""
    not_empty, tokens = int((lengths > 0).sum()), int(lengths.sum())
    if num_completions < max(not_empty, 1):
        raise ShapeError(
            f"num_completions must be >= {max(not_empty, 1)}, got {num_completions}: the whole "
            "batch holds at least this part of it. Pass the count over all micro-batches."
        )
    if num_tokens < tokens:
        raise ShapeError(
            f"num_tokens must be >= {tokens}, got {num_tokens}: the whole batch holds at least "
            "the tokens of this part. Pass the count over all micro-batches."
        )


def _positive(max_new_tokens: int | None) -> int:
    if max_new_tokens is None or max_new_tokens < 1:
        raise ConfigError(
            f"aggregation 'constant' needs max_new_tokens >= 1, got {max_new_tokens}: it is the "
            "constant to divide by. Pass sampling.max_new_tokens."
        )
    return max_new_tokens


def aggregate(
    per_token: torch.Tensor,
    mask: torch.Tensor,
    how: Aggregation,
    *,
    num_completions: int,
    num_tokens: int,
    max_new_tokens: int | None = None,
) -> torch.Tensor:
    """Part of the whole batch's aggregate that these tokens contribute; the parts sum to it.

    Args:
        per_token: [B, T] values; masked ones may be NaN.
        mask: [B, T] True on trained tokens.
        how: see `token_weights`, as all that follow.
        num_completions: of the whole batch.
        num_tokens: of the whole batch.
        max_new_tokens: read by "constant" only.

    Returns:
        A scalar.

    Raises:
        ConfigError: as `token_weights`.
        ShapeError: as `token_weights`, and if the shapes differ.
    """
    weights = token_weights(
        mask,
        how,
        num_completions=num_completions,
        num_tokens=num_tokens,
        max_new_tokens=max_new_tokens,
        dtype=per_token.dtype,
    )
    return (zero_masked(per_token, mask) * weights).sum()
