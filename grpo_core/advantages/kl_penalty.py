"""The KL to the reference as part of the reward or of the advantage, not of the loss.

    reward:     r_i - beta * KL_i, before the group is normalised
    advantage:  A_i - beta * KL_i, after it

with KL_i the KL of a whole completion: the sum of a per-token estimate over its tokens
(`grpo_core.kl`). Both treat it as a constant, a price and not a term to differentiate.

In the reward it is the penalty of PPO-RLHF (Ouyang et al. 2022, arXiv 2203.02155, eq. 2) and
REINFORCE++ (arXiv 2501.03262), and it competes within the group: only differences of KL matter,
and the group's deviation scales them. In the advantage it is the exercise of our source text, and
absolute: it pushes every completion that has moved away from the reference, in groups without
signal too.
"""

from __future__ import annotations

import torch

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.masking import as_mask


def subtract_kl(
    values: torch.Tensor, kl: torch.Tensor, beta: float, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Rewards or advantages minus `beta` times the KL of their completion.

    Args:
        values: [P, G] rewards or advantages.
        kl: [P, G] nats of each completion; may be anything where not valid.
        beta: weight of the KL, >= 0.
        valid: [P, G] True on completions that count; None: all do.

    Returns:
        [P, G] in the dtype of `values`, unchanged where not valid; without a gradient.

    Raises:
        ShapeError: if the shapes differ. ConfigError: if beta is negative or not finite.
    """
    if not 0 <= beta < float("inf"):
        raise ConfigError(
            f"beta must be >= 0 and finite, got {beta}: a negative one would reward leaving the "
            "reference. Set grpo.beta."
        )
    mask = torch.ones_like(values, dtype=torch.bool) if valid is None else as_mask(valid, "valid")
    if not values.shape == kl.shape == mask.shape:
        raise ShapeError(
            f"values, kl and valid must have one shape, got {list(values.shape)}, "
            f"{list(kl.shape)} and {list(mask.shape)}: each holds one entry a completion."
        )
    penalised = values.detach().double() - beta * kl.detach().double()
    return torch.where(mask, penalised, values.detach().double()).to(values.dtype)
