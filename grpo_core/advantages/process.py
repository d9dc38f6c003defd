"""Advantages from the rewards of steps: process supervision.

    r~_{i,j} = (r_{i,j} - mean(r)) / std(r)     over the steps of all valid completions of a group
    A_{i,t}  = sum of r~_{i,j} over the steps j that end at token t or later

Source: Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1.3, with the population
deviation, as in `grpo_core.advantage`. Every token answers for the steps that are still to come,
its own included. A completion of more steps adds up more of them: where good steps are rewarded
above the group's mean, many good steps are better than few.

A group whose steps all have the same reward is exactly 0, decided as in
`grpo_core.advantages.groups`, and so is one with fewer than two valid completions: the steps of a
single one have nothing but each other to be compared with.

Shape letters: P prompts, G completions of one prompt (a group), S steps of a completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from grpo_core.advantages.groups import Matrix, read_groups
from grpo_core.errors import ShapeError
from grpo_core.masking import as_mask

Function = TypeVar("Function", bound=Callable[..., torch.Tensor])

_MARK = "takes_steps"


def takes_steps(function: Function) -> Function:
    """Mark an estimator that is called with the rewards of steps, [P, G, S], and their validity.

    It returns the advantage at each step, [P, G, S]: that of the tokens from the end of the step
    before to the end of this one.
    """
    setattr(function, _MARK, True)
    return function


def is_for_steps(estimator: object) -> bool:
    """Whether an estimator is marked by `takes_steps`."""
    return bool(getattr(estimator, _MARK, False))


@takes_steps
def process_advantages(
    rewards: torch.Tensor | Sequence[Sequence[Sequence[float]]],
    valid: torch.Tensor | Sequence[Sequence[Sequence[bool]]] | None = None,
) -> torch.Tensor:
    """The normalised rewards of each step and of all that follow it, added up.

    Args:
        rewards: [P, G, S] in the order of the steps; finite where valid.
        valid: [P, G, S] True on steps of completions that count; None: all do.

    Returns:
        [P, G, S] in the dtype of the rewards, exactly 0 where not valid or without signal.

    Raises:
        ShapeError: if a shape is not [P, G, S] with G >= 2 and S >= 1, or a valid reward is not
            finite.
    """
    given = torch.as_tensor(rewards).detach()
    if not given.is_floating_point():
        given = given.to(torch.get_default_dtype())
    if given.ndim != 3 or given.shape[1] < 2 or given.shape[2] < 1:
        raise ShapeError(
            f"rewards must be [P, G, S] with G >= 2 and S >= 1, got {list(given.shape)}: each row "
            "holds the steps of one completion. Set grpo.group_size."
        )
    mask = torch.ones_like(given, dtype=torch.bool) if valid is None else _mask(valid, given)
    groups = read_groups(_flat(given), _flat(mask))
    has_rivals = (mask.any(-1).sum(-1, keepdim=True) >= 2).unsqueeze(-1)
    scaled = (groups.centred / groups.deviation(ddof=0)).reshape(given.shape)
    keep = mask & has_rivals & groups.has_signal.unsqueeze(-1)
    steps = torch.where(keep, scaled, 0.0)
    to_come = steps.flip(-1).cumsum(-1).flip(-1)
    return torch.where(keep, to_come, 0.0).to(groups.dtype)


def at_tokens(
    advantages: Sequence[float], last_tokens: Sequence[int], num_tokens: int
) -> list[float]:
    """The advantage of each token: that of the first step that ends at it or later.

    Args:
        advantages: [S] of a completion's steps.
        last_tokens: [S] index of the token with which each step ends, never falling.
        num_tokens: T of the completion.

    Returns:
        [T], 0 after the last step.
    """
    tokens = [0.0] * num_tokens
    start = 0
    for advantage, last in zip(advantages, last_tokens, strict=True):
        for at in range(start, last + 1):
            tokens[at] = advantage
        start = max(start, last + 1)
    return tokens


def _flat(values: torch.Tensor) -> Matrix:
    return values.reshape(values.shape[0], -1)


def _mask(valid: object, rewards: torch.Tensor) -> torch.Tensor:
    mask = as_mask(torch.as_tensor(valid), "valid")
    if mask.shape != rewards.shape:
        raise ShapeError(
            f"valid must have the shape of rewards {list(rewards.shape)}, got {list(mask.shape)}: "
            "it says of each step whether it counts."
        )
    return mask.to(rewards.device)
