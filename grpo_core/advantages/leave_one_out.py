"""Leave-one-out baseline: each completion against the mean of the *others* (RLOO).

    A_i = r_i - mean(r_j for j != i) = n / (n - 1) * (r_i - mean(r))         n valid completions

Source: Ahmadian et al. 2024, "Back to Basics", arXiv 2402.14740; Kool et al. 2019, "Buy 4
REINFORCE Samples, Get a Baseline for Free!". A baseline that does not contain r_i leaves the policy
gradient unbiased; the group's own mean shrinks it by (n - 1) / n, a factor of the learning rate
as long as n is the same for all groups.
"""

from __future__ import annotations

import torch

from grpo_core.advantages.groups import Matrix, read_groups


def leave_one_out_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Reward minus the mean reward of the group's other valid completions.

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G]; each group sums to 0.

    Raises:
        ShapeError: if a shape is not [P, G] with G >= 2, or a valid reward is not finite.
    """
    groups = read_groups(rewards, valid, least=2)
    others = groups.num_valid - 1
    factor = groups.num_valid / others
    return groups.finish(factor * groups.centred * groups.magnitude)
