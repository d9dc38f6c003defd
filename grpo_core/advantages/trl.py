"""The advantages of TRL's GRPOTrainer, for runs that must be comparable with it.

    scale_rewards = "group"    A = (r - mean) / (std of the group + 1e-4)
    scale_rewards = "batch"    A = (r - mean) / (std of all rewards + 1e-4)

with Bessel's correction in the deviation (trl 1.16, trainer/grpo_trainer.py). The epsilon makes the
advantage depend on the unit of the reward: multiply rewards of about 1e-4 by ten and their
advantages change. TRL's scale_rewards = "none" is our `mean`.

Not reproduced: groups of equal rewards are exactly 0 here, where TRL leaves the rounding of their
mean divided by 1e-4; and a group with a single valid completion is 0, where its deviation is NaN.
"""

from __future__ import annotations

import torch

from grpo_core.advantages.batch import read_batch
from grpo_core.advantages.groups import Matrix, read_groups

EPSILON = 1e-4


def trl_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """As TRL with scale_rewards = "group", its default.

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G]; each group sums to 0.

    Raises:
        ShapeError: if a shape is not [P, G] with G >= 2, or a valid reward is not finite.
    """
    groups = read_groups(rewards, valid, least=2)
    epsilon = EPSILON / groups.magnitude
    return groups.finish(groups.centred / (groups.deviation(ddof=1) + epsilon))


def trl_batch_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """As TRL with scale_rewards = "batch".

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G]; each group sums to 0.

    Raises:
        ShapeError: if a shape is not [P, G] with G >= 2, or a valid reward is not finite.
    """
    groups = read_groups(rewards, valid, least=2)
    batch = read_batch(groups)
    deviation = batch.deviation(ddof=1) + EPSILON / batch.magnitude
    return groups.finish(groups.centred * batch.share / deviation)
