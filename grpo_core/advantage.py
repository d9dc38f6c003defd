"""Group-relative advantages: how much better a completion did than the others of its prompt.

    A_i = (r_i - mean(r)) / deviation(r)          over the valid completions of one prompt

Source: Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1.2, with the population
deviation. Without the division it is Dr. GRPO, Liu et al. 2025, arXiv 2503.20783.

Left out on purpose: an epsilon in the denominator. It is too large for small rewards and too small
for rounding errors: eight float32 rewards of 0.7 get a deviation of 6e-8 from the rounding of their
mean, and with an epsilon of 1e-9 each an advantage of 0.9. Here a group whose rewards differ by no
more than rounding explains is constant, and its advantages are exactly 0.

Shape letters: P prompts, G completions of one prompt (a group).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
import torch

from grpo_core.errors import ConfigError, ShapeError, unknown_name
from grpo_core.masking import as_mask

Scale = Literal["std", "none"]
Matrix = torch.Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]

SCALES: tuple[Scale, ...] = ("std", "none")

# A reward is a weighted sum of a handful of components. Adding them in another order, or reaching
# the same total by other components, moves it by a few roundings, each at most eps / 2 of it.
CONSTANT_TOLERANCE_EPS = 4


def group_advantages(
    rewards: Matrix,
    valid: Matrix | None = None,
    *,
    scale: Scale = "std",
    ddof: int = 0,
) -> torch.Tensor:
    """Advantage of each completion over its group.

    Completions that are not valid, such as those whose verifier failed, are left out of mean and
    deviation and get exactly 0, whatever their reward. So does every completion of a group without
    signal: see `zero_signal_groups`.

    Args:
        rewards: [P, G] finite where valid. Computed in float64, whatever its dtype; nested lists
            are read as torch's default dtype. No gradient flows into it.
        valid: [P, G] True on completions that count; None: all do.
        scale: "std" divides by the deviation of the group, "none" only subtracts its mean.
        ddof: 0 for the population deviation (sqrt(mean of squares)), 1 for Bessel's correction.

    Returns:
        [P, G] in the dtype of `rewards` (default dtype for integers). With scale "std" each group
        has mean 0 and deviation 1, so |A| <= sqrt(G - 1) for ddof 0.

    Raises:
        ShapeError: if a shape is not [P, G] with G >= 2, or a valid reward is not finite.
        ConfigError: if `scale` or `ddof` is none of the above.
    """
    if scale not in SCALES:
        raise ConfigError(unknown_name("advantage scale", str(scale), SCALES))
    if ddof not in (0, 1):
        raise ConfigError(
            f"ddof must be 0 or 1, got {ddof!r}: it is the population deviation or Bessel's."
        )
    groups = _read_groups(rewards, valid)
    if groups.unit.shape[1] < 2:
        raise ShapeError(
            "group_size must be >= 2, got 1: one completion has no group mean to compare with. "
            "Set grpo.group_size."
        )
    num_valid = groups.valid.sum(-1, keepdim=True)
    mean = groups.unit.sum(-1, keepdim=True) / num_valid
    centred = torch.where(groups.valid, groups.unit - mean, 0.0)
    if scale == "std":
        variance = centred.square().sum(-1, keepdim=True) / (num_valid - ddof)
        advantages = centred / variance.sqrt()
    else:
        advantages = centred * groups.magnitude
    # Groups without signal divided 0 by 0 above; nothing of it passes here.
    return torch.where(groups.has_signal, advantages, 0.0).to(groups.dtype)


def mean_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Reward minus its group's mean, not divided by any deviation (Dr. GRPO, arXiv 2503.20783).

    The same as `group_advantages(rewards, valid, scale="none")`, under the name plugins use.
    """
    return group_advantages(rewards, valid, scale="none")


def zero_signal_groups(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Which groups teach nothing: fewer than two valid completions, or constant rewards.

    Rewards are constant when the largest and the smallest are within 4 eps of the largest
    magnitude, eps being the spacing of the *input* dtype at 1 (1.2e-7 for float32).

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P] bool, True exactly where `group_advantages` gives a group of zeros.

    Raises:
        ShapeError: if a shape is not [P, G], or a valid reward is not finite.
    """
    return ~_read_groups(rewards, valid).has_signal.squeeze(-1)


class _Groups(NamedTuple):
    """Rewards made ready for arithmetic.

    Attributes:
        unit: [P, G] float64 rewards divided by `magnitude`, so that squares of the smallest and of
            the largest rewards neither vanish nor overflow; 0 where not valid.
        magnitude: [P, 1] float64, the largest absolute valid reward.
        valid: [P, G] bool.
        has_signal: [P, 1] bool, at least two valid rewards that truly differ.
        dtype: of the rewards that came in.
    """

    unit: torch.Tensor
    magnitude: torch.Tensor
    valid: torch.Tensor
    has_signal: torch.Tensor
    dtype: torch.dtype


def _read_groups(rewards: Matrix, valid: Matrix | None) -> _Groups:
    given = _as_tensor(rewards, "rewards")
    if not given.is_floating_point():
        given = given.to(torch.get_default_dtype())
    mask = _read_valid(valid, given)
    _check_finite(given, mask)

    kept = torch.where(mask, given.double(), 0.0)
    magnitude = kept.abs().amax(-1, keepdim=True)
    unit = torch.where(magnitude > 0, kept / magnitude, 0.0)
    highest = torch.where(mask, unit, -torch.inf).amax(-1, keepdim=True)
    lowest = torch.where(mask, unit, torch.inf).amin(-1, keepdim=True)
    tolerance = CONSTANT_TOLERANCE_EPS * torch.finfo(given.dtype).eps
    return _Groups(unit, magnitude, mask, highest - lowest > tolerance, given.dtype)


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
