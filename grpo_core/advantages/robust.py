"""Median and MAD in place of mean and deviation: one outlier moves nobody else's advantage.

    s   = 1.4826 * median |r_j - median(r)|          1.4826: equals sigma for normal rewards
    A_i = clamp((r_i - median(r)) / s, -b, b),       b = sqrt(n - 1),  n valid completions

Where at least half of the group shares one reward, the MAD is 0; s is then the root mean square
distance from the median. Binary rewards are usually so: they get what "std" would give the rare
answer, and 0 for the common one.

Source: Hampel 1974, "The influence curve and its role in robust estimation"; Iglewicz & Hoaglin
1993, "How to Detect and Handle Outliers" (the score, and that a MAD of 0 needs a second scale).
The bound is ours: a robust score does not limit the outlier itself, and sqrt(n - 1) is what the
std-scaled advantage never exceeds. The median is no mean, so a group does not sum to 0.
"""

from __future__ import annotations

import torch

from grpo_core.advantages.groups import Matrix, read_groups

MAD_TO_SIGMA = 1.4826  # 1 / the 75 % quantile of the standard normal distribution


def robust_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Distance from the group's median, over its scaled median absolute deviation, bounded.

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G] of at most sqrt(n - 1) in size, n being the group's valid completions.

    Raises:
        ShapeError: if a shape is not [P, G] with G >= 2, or a valid reward is not finite.
    """
    groups = read_groups(rewards, valid, least=2)
    distance = torch.where(groups.valid, groups.unit - _median(groups.unit, groups.valid), 0.0)
    spread = _median(distance.abs(), groups.valid)
    mean_square = distance.square().sum(-1, keepdim=True) / groups.num_valid
    # A MAD of rounding errors is one of 0.
    scale = torch.where(spread > groups.tolerance, MAD_TO_SIGMA * spread, mean_square.sqrt())
    bound = (groups.num_valid - 1).clamp(min=0).sqrt()
    return groups.finish((distance / scale).clamp(-bound, bound))


def _median(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """[P, 1] median over the valid ones, the mean of the middle two for an even number."""
    ordered = torch.where(valid, values, torch.inf).sort(-1).values
    last = (valid.sum(-1, keepdim=True) - 1).clamp(min=0)
    return (ordered.gather(-1, last // 2) + ordered.gather(-1, (last + 1) // 2)) / 2
