"""Advantages for pass@k: a completion is worth what it adds to the best of k.

Take every subset S of k of the group's n valid completions, and give it the reward of its best,
max(S). A completion's advantage is how much better the subsets that contain it do than all of them:

    A_i = (E[max(S) | i in S] - E[max(S)]) / std(max(S))             std, E over all subsets

Source: Chen et al. 2025, "Pass@k Training", arXiv 2508.10751, its "analytical
derivation". For rewards of 0 and 1 this is the paper's closed form: with m wrong completions,
Rbar = 1 - C(m, k) / C(n, k) and sigma = sqrt(Rbar (1 - Rbar)),

    A_right = (1 - Rbar) / sigma,    A_wrong = (1 - Rbar - C(m-1, k-1) / C(n-1, k-1)) / sigma

Here rewards may be any numbers. With them sorted, r_1 <= ... <= r_n, the best of a subset is r_j in
C(j-1, k-1) of the C(n, k) subsets, and of those that contain i it is

    r_i in C(i-1, k-1),   r_j in C(j-2, k-2) for each j > i,         of C(n-1, k-1)

so nothing is sampled and no subset is listed. With k = 1 it is the std-scaled advantage. A group
sums to 0, and |A| <= sqrt(n / k - 1). Groups in which every subset does equally well, because fewer
than k completions are below the best, are exactly 0: for pass@k they are solved.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

import torch

from grpo_core.advantages.groups import Matrix, read_groups
from grpo_core.errors import ConfigError, ShapeError


def pass_at_k_advantages(
    rewards: Matrix, valid: Matrix | None = None, *, k: int = 4
) -> torch.Tensor:
    """Advantage of each completion for the best of `k`.

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.
        k: size of the subsets, 1 <= k < G. A group with k valid completions or fewer is 0.

    Returns:
        [P, G]; each group sums to 0.

    Raises:
        ConfigError: if k is not positive.
        ShapeError: if a shape is not [P, G] with G > k, or a valid reward is not finite.
    """
    if k < 1:
        raise ConfigError(f"k must be >= 1, got {k}: it counts the attempts of pass@k.")
    groups = read_groups(rewards, valid, least=2)
    if groups.unit.shape[1] <= k:
        raise ShapeError(
            f"group_size must be > {k} for pass@{k} advantages, got {groups.unit.shape[1]}: a "
            "group of k has one subset only. Set grpo.group_size, or grpo.advantage to a smaller k."
        )
    advantages = torch.zeros_like(groups.unit)
    for row, unit, mask in zip(advantages, groups.unit, groups.valid, strict=True):
        row[mask] = _of_group(unit[mask], k, groups.tolerance)
    return groups.finish(advantages)


def pass_at_2_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Advantage of each completion for the best of 2; needs groups of 3 or more."""
    return pass_at_k_advantages(rewards, valid, k=2)


def pass_at_4_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Advantage of each completion for the best of 4; needs groups of 5 or more."""
    return pass_at_k_advantages(rewards, valid, k=4)


def pass_at_8_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Advantage of each completion for the best of 8; needs groups of 9 or more."""
    return pass_at_k_advantages(rewards, valid, k=8)


def _of_group(rewards: torch.Tensor, k: int, tolerance: float) -> torch.Tensor:
    """[n] advantages of n rewards, in any order."""
    n = len(rewards)
    if n <= k:
        return torch.zeros_like(rewards)
    ordered, order = rewards.sort()
    worst_of_best = ordered[k - 1]
    if ordered[-1] - worst_of_best <= tolerance:
        return torch.zeros_like(rewards)
    best, own, above = (ordered.new_tensor(weights) for weights in _subset_shares(n, k))
    mean = best @ ordered
    deviation = (best @ (ordered - mean).square()).sqrt()
    weighted = above * (ordered - mean)
    later = weighted.sum() - weighted.cumsum(0)
    advantages = torch.empty_like(rewards)
    advantages[order] = (own * (ordered - mean) + later) / deviation
    return advantages


@lru_cache
def _subset_shares(n: int, k: int) -> tuple[list[float], list[float], list[float]]:
    """For each rank j = 1..n, the share of k-subsets whose best it is.

    Returns:
        Of all subsets; of those that contain j; of those that contain a given lower rank.
    """
    best = [comb(j - 1, k - 1) / comb(n, k) for j in range(1, n + 1)]
    own = [comb(j - 1, k - 1) / comb(n - 1, k - 1) for j in range(1, n + 1)]
    above = [
        comb(j - 2, k - 2) / comb(n - 1, k - 1) if min(j, k) >= 2 else 0.0 for j in range(1, n + 1)
    ]
    return best, own, above
