"""Which prompts a step trains on: their order, and others in place of those without signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError, unknown_name
from grpo_core.rollout import AdvantageEstimator, Collection, with_advantages
from grpo_core.training.curriculum import MiddlingFirst
from grpo_core.training.prompt_order import EpochOrder
from grpo_core.types import Json, Prompt, Rollout, RolloutGroup

CollectRound = Callable[[Sequence[int], int], Collection]


class PromptSource(Protocol):
    """Hands out prompts, by index."""

    def draw(self, count: int) -> list[int]:
        """The next `count` prompts."""
        ...

    def observe(self, indices: Sequence[int], groups: Sequence[RolloutGroup]) -> None:
        """Learn what came of prompts that were drawn; called once for each draw."""
        ...

    def state(self) -> dict[str, Json]:
        """Plain values from which a resume goes on."""
        ...


def create_prompt_source(
    config: RunConfig, prompts: Sequence[Prompt], state: Mapping[str, Json]
) -> PromptSource:
    """The source of section [selection], at the beginning or where `state` left it."""
    if config.selection.curriculum == "off":
        return EpochOrder(len(prompts), config.seed, int(state.get("position", 0)))
    return MiddlingFirst(prompts, config.seed, config.selection.difficulty_key, state)


def check_difficulty_key(config: RunConfig, prompts: Sequence[Prompt]) -> None:
    """Refuse a key that the prompts do not have.

    Raises:
        ConfigError: naming the keys there are.
    """
    key = config.selection.difficulty_key
    known = {name for prompt in prompts for name in prompt.meta}
    if key is not None and key not in known:
        raise ConfigError(
            unknown_name("meta field", key, known, "It is set by selection.difficulty_key.")
        )


def collect_groups(
    config: RunConfig,
    source: PromptSource,
    collect_round: CollectRound,
    estimate: AdvantageEstimator,
) -> Collection:
    """Sample the prompts of a step; while groups have no signal, others in their place.

    A group without signal is one whose advantages are all 0. As long as the budget of
    selection.refill_budget lasts, further prompts are drawn, and those with signal replace the ones
    without. The step trains on grpo.prompts_per_step groups in any case, if need be on some without
    signal, so that the denominators of the loss stay what they are.

    Source: dynamic sampling of DAPO, Yu et al. 2025, arXiv 2503.14476, section 3.2, here with a
    budget.

    Args:
        config: of the run.
        source: where prompts come from.
        collect_round: samples and judges the prompts of given indices; the second argument counts
            the rounds of the step from 0.
        estimate: the advantage estimator.

    Returns:
        all groups that were sampled, in order; those that were replaced have `is_trained` False.
    """
    total, budget = config.grpo.prompts_per_step, config.selection.refill_budget

    def sample(count: int, number: int) -> Collection:
        indices = source.draw(count)
        found = collect_round(indices, number)
        source.observe(indices, found.groups)
        return found

    rounds = [sample(total, 0)]
    groups = list(rounds[0].groups)
    masks = config.selection.mask_truncated
    while budget and (wanted := min(budget, total - sum(has_signal(groups, estimate, masks)))) > 0:
        budget -= wanted
        rounds.append(sample(wanted, len(rounds)))
        groups += rounds[-1].groups
    return Collection(
        choose_trained(groups, total, estimate, masks),
        sum(found.seconds_sample for found in rounds),
        sum(found.seconds_verify for found in rounds),
    )


def choose_trained(
    groups: Sequence[RolloutGroup],
    count: int,
    estimate: AdvantageEstimator,
    masks_truncated: bool = False,
) -> list[RolloutGroup]:
    """Mark `count` groups for training: the first with signal, then the first without."""
    if len(groups) == count:
        return list(groups)
    signals = has_signal(groups, estimate, masks_truncated)
    order = sorted(range(len(groups)), key=lambda at: not signals[at])  # stable
    trained = set(order[:count])
    return [replace(group, is_trained=at in trained) for at, group in enumerate(groups)]


def has_signal(
    groups: Sequence[RolloutGroup], estimate: AdvantageEstimator, masks_truncated: bool = False
) -> list[bool]:
    """Whether any advantage of each group differs from 0, among completions that are trained on."""

    def teaches(rollout: Rollout) -> bool:
        is_masked = masks_truncated and rollout.completion.is_truncated
        return rollout.has_signal and not is_masked

    weighed = with_advantages(groups, estimate)
    return [any(map(teaches, group.rollouts)) for group in weighed]
