"""Advantages whose scale is that of the whole batch, so that close groups stay small.

Dividing by the deviation of its own group makes a group of nearly equal rewards as loud as any
other. Dividing by one number for all groups keeps their sizes relative to each other:

    batch                 A = (r - mean of the group) / std of all rewards
    reinforce_pp_baseline A = (r - mean of the group) / std of all r - mean of the group
    reinforce_pp          A = (r - mean of the batch) / std of all rewards

Sources: "batch" is the mixed normalisation of Liu et al. 2025, "Tricks or Traps? A Deep Dive into
RL for LLM Reasoning", arXiv 2508.08221; the other two are Hu et al. 2025,
"REINFORCE++", arXiv 2501.03262. All means and deviations (population) run over the valid
completions of the whole batch, those of groups without signal included. There is no epsilon: a
batch of equal rewards is exactly 0.

Left out: the token-level KL that REINFORCE++ subtracts; that is grpo.kl_in = "reward".
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from grpo_core.advantages.groups import Groups, Matrix, read_groups


def batch_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Reward minus its group's mean, over the deviation of all rewards of the batch.

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
    return groups.finish(groups.centred * batch.share / batch.deviation(ddof=0))


def reinforce_pp_baseline_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Reward minus its group's mean, over the deviation of just that in the batch.

    Over all valid completions the mean is 0 and the deviation 1.

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
    # What rounding left in groups without signal must not become the scale of a silent batch.
    centred = torch.where(groups.has_signal, groups.centred * batch.share, 0.0)
    deviation = (centred.square().sum() / groups.valid.sum()).sqrt()
    return groups.finish(centred / deviation)


def reinforce_pp_advantages(rewards: Matrix, valid: Matrix | None = None) -> torch.Tensor:
    """Reward minus the batch's mean, over the batch's deviation; groups play no part.

    A group of equal rewards is *not* 0 here: one that always succeeds is better than the batch.

    Args:
        rewards: [P, G] finite where valid.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G]; over all valid completions the mean is 0 and the deviation 1, exactly 0 all over
        where all rewards are equal.

    Raises:
        ShapeError: if a shape is not [P, G], or a valid reward is not finite.
    """
    groups = read_groups(rewards, valid)
    batch = read_batch(groups)
    keep = groups.valid & batch.has_signal
    return torch.where(keep, batch.centred / batch.deviation(ddof=0), 0.0).to(groups.dtype)


class Batch(NamedTuple):
    """All rewards of a batch as one group.

    Attributes:
        share: [P, 1] what part of the batch's largest magnitude each group's own is.
        magnitude: scalar, the largest absolute valid reward of the batch.
        centred: [P, G] rewards over `magnitude`, minus their mean, 0 where not valid.
        num_valid: scalar.
        has_signal: scalar bool, not all valid rewards of the batch are equal.
    """

    share: torch.Tensor
    magnitude: torch.Tensor
    centred: torch.Tensor
    num_valid: torch.Tensor
    has_signal: torch.Tensor

    def deviation(self, ddof: int) -> torch.Tensor:
        """Scalar deviation of all rewards over `magnitude`; NaN where too few are valid."""
        return (self.centred.square().sum() / (self.num_valid - ddof).clamp(min=0)).sqrt()


def read_batch(groups: Groups) -> Batch:
    """The groups seen as one; their rewards in units of the batch's largest."""
    magnitude = groups.magnitude.amax() if len(groups.magnitude) else groups.magnitude.sum()
    share = torch.where(magnitude > 0, groups.magnitude / magnitude, 0.0)
    unit = groups.unit * share
    num_valid = groups.valid.sum()
    centred = torch.where(groups.valid, unit - unit.sum() / num_valid, 0.0)
    kept = unit[groups.valid]
    spread = kept.amax() - kept.amin() if len(kept) else unit.new_zeros(())
    return Batch(share, magnitude, centred, num_valid, spread > groups.tolerance)
