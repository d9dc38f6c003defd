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

from typing import Literal

import torch

from grpo_core.advantages.groups import Matrix, read_groups
from grpo_core.errors import ConfigError, unknown_name

Scale = Literal["std", "none"]

SCALES: tuple[Scale, ...] = ("std", "none")


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
    groups = read_groups(rewards, valid, least=2)
    if scale == "std":
        return groups.finish(groups.centred / groups.deviation(ddof))
    return groups.finish(groups.centred * groups.magnitude)


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
    return ~read_groups(rewards, valid).has_signal.squeeze(-1)
