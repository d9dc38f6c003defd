"""Rewards of groups, checked and made ready for arithmetic: what every estimator begins with.

A group without signal has fewer than two valid completions, or rewards that differ by no more than
rounding explains. An epsilon in the denominator is no way to tell: it is too large for small
rewards and too small for rounding errors (see `grpo_core.advantage`).

Shape letters: P prompts, G completions of one prompt (a group).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from grpo_core.errors import ShapeError
from grpo_core.masking import as_mask

Matrix = torch.Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]

# A reward is a weighted sum of a handful of components. Adding them in another order, or reaching
# the same total by other components, moves it by a few roundings, each at most eps / 2 of it.
CONSTANT_TOLERANCE_EPS = 4


class Groups(NamedTuple):
    """Rewards made ready for arithmetic.

    Attributes:
        unit: [P, G] float64 rewards divided by `magnitude`, so that squares of the smallest and of
            the largest rewards neither vanish nor overflow; 0 where not valid.
        magnitude: [P, 1] float64, the largest absolute valid reward.
        valid: [P, G] bool.
        has_signal: [P, 1] bool, at least two valid rewards that truly differ.
        dtype: of the rewards that came in.
        tolerance: rewards whose units differ by no more are equal.
    """

    unit: torch.Tensor
    magnitude: torch.Tensor
    valid: torch.Tensor
    has_signal: torch.Tensor
    dtype: torch.dtype
    tolerance: float

    @property
    def num_valid(self) -> torch.Tensor:
        """[P, 1] valid completions of each group, in float64 as all else."""
        return self.valid.sum(-1, keepdim=True).double()

    @property
    def centred(self) -> torch.Tensor:
        """[P, G] units minus the mean of their group, 0 where not valid."""
        mean = self.unit.sum(-1, keepdim=True) / self.num_valid
        return torch.where(self.valid, self.unit - mean, 0.0)

    def deviation(self, ddof: int) -> torch.Tensor:
        """[P, 1] deviation of the units of each group; NaN where too few are valid."""
        squares = self.centred.square().sum(-1, keepdim=True)
        return (squares / (self.num_valid - ddof).clamp(min=0)).sqrt()

    def finish(self, advantages: torch.Tensor) -> torch.Tensor:
        """[P, G] exactly 0 where not valid or without signal, in the dtype of the rewards."""
        keep = self.valid & self.has_signal
        return torch.where(keep, advantages, 0.0).to(self.dtype)


def read_groups(rewards: Matrix, valid: Matrix | None, *, least: int = 1) -> Groups:
    """Check rewards and validity, and make them ready for arithmetic.

    Args:
        rewards: [P, G] finite where valid; nested lists are read as torch's default dtype.
        valid: [P, G] True on completions that count; None: all do.
        least: the smallest group an estimator can do with.

    Raises:
        ShapeError: if a shape is not [P, G], G is too small, or a valid reward is not finite.
    """
    given = _as_tensor(rewards, "rewards")
    if not given.is_floating_point():
        given = given.to(torch.get_default_dtype())
    if given.shape[1] < least:
        raise ShapeError(
            f"group_size must be >= {least}, got {given.shape[1]}: one completion has no group "
            "mean to compare with. Set grpo.group_size."
        )
    mask = _read_valid(valid, given)
    _check_finite(given, mask)

    kept = torch.where(mask, given.double(), 0.0)
    magnitude = kept.abs().amax(-1, keepdim=True)
    unit = torch.where(magnitude > 0, kept / magnitude, 0.0)
    highest = torch.where(mask, unit, -torch.inf).amax(-1, keepdim=True)
    lowest = torch.where(mask, unit, torch.inf).amin(-1, keepdim=True)
    tolerance = CONSTANT_TOLERANCE_EPS * torch.finfo(given.dtype).eps
    return Groups(unit, magnitude, mask, highest - lowest > tolerance, given.dtype, tolerance)


def _as_tensor(values: Matrix, name: str) -> torch.Tensor:
    """[P, G] tensor of `values`, detached."""
    try:
        tensor = values.detach() if isinstance(values, torch.Tensor) else torch.tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"{name} must be a rectangle [P, G] of numbers: {error}. "
            "Pad short groups, and mark the padding as not valid."
        ) from error
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ShapeError(
            f"{name} must be [P, G] with G >= 1, got {list(tensor.shape)}: each row is the group "
            "of one prompt. Reshape to (num_prompts, group_size)."
        )
    return tensor


def _read_valid(valid: Matrix | None, rewards: torch.Tensor) -> torch.Tensor:
    if valid is None:
        return torch.ones_like(rewards, dtype=torch.bool)
    mask = as_mask(_as_tensor(valid, "valid"), "valid")
    if mask.shape != rewards.shape:
        raise ShapeError(
            f"valid must have the shape of rewards {list(rewards.shape)}, got {list(mask.shape)}: "
            "it says of each completion whether it counts."
        )
    return mask.to(rewards.device)


def _check_finite(rewards: torch.Tensor, valid: torch.Tensor) -> None:
    strange = (valid & ~rewards.isfinite()).nonzero()
    if len(strange):
        prompt, completion = strange[0].tolist()
        raise ShapeError(
            f"rewards must be finite where valid, got {rewards[prompt, completion].item()} at "
            f"prompt {prompt}, completion {completion} ({len(strange)} in all): one such reward "
            "spoils its group. Mark it as not valid, or mend the verifier or shaper it came from."
        )
