"""Advantages of tokens, from verdicts that score steps (grpo.advantage = "process").

Rewards of steps are normalised and added up by an estimator for steps (DeepSeekMath, Shao et al.
2024, arXiv 2402.03300, section 4.1.3). Rewards of whole completions, of verifiers without steps and
of shapers, are compared within the group as usual, and given to every token. The two parts count in
proportion to the weights they have in the reward:

    A_t = (W_steps * A_steps,t + W_whole * A_whole) / (W_steps + W_whole)

with W the sum of absolute weights. A judge of weight 0 leaves process supervision alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple, Protocol

import torch

from grpo_core.advantage import group_advantages
from grpo_core.advantages.process import at_tokens, is_for_steps
from grpo_core.errors import ConfigError, DataError, PluginError
from grpo_core.types import Completion, Rollout, RolloutGroup

Locate = Callable[[Completion], Sequence[int]]


class Part(Protocol):
    """What has a weight in the reward."""

    @property
    def name(self) -> str:
        """Of its component."""
        ...

    @property
    def weight(self) -> float:
        """What its value is multiplied with."""
        ...


class StepRewards(NamedTuple):
    """Of one completion: its steps' rewards, and the index of the token with which each ends."""

    rewards: list[float]
    last_tokens: list[int]


@dataclass(frozen=True, slots=True)
class StepEstimator:
    """An estimator for steps, with what it takes to apply it to groups.

    Attributes:
        estimate: see `grpo_core.advantages.process.takes_steps`.
        weights: of verifiers and shapers in the reward, by name.
        locate: where a completion's tokens end in its text; None: where it is recorded.
    """

    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    weights: Mapping[str, float]
    locate: Locate | None = None

    def weigh(self, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """The same groups with the advantages of every rollout's tokens filled in.

        Raises:
            DataError: if it is not known where tokens end. PluginError: if the estimator breaks its
                contract.
        """
        groups = [
            replace(group, rollouts=tuple(map(self._located, group.rollouts))) for group in groups
        ]
        names = verifiers_of_steps(groups)
        share = self._share(names)
        steps = [[self._steps(rollout, names) for rollout in g.rollouts] for g in groups]
        of_steps, of_wholes = self._of_steps(steps), _of_wholes(groups, names)

        def weighed(p: int, g: int, rollout: Rollout) -> Rollout:
            num_tokens = len(rollout.completion.token_ids)
            along = at_tokens(of_steps[p][g], steps[p][g].last_tokens, num_tokens)
            tokens = tuple(share * value + (1 - share) * of_wholes[p][g] for value in along)
            mean = fmean(tokens) if tokens else 0.0
            return replace(rollout, advantage=mean, token_advantages=tokens)

        return [
            replace(
                group,
                rollouts=tuple(weighed(p, g, rollout) for g, rollout in enumerate(group.rollouts)),
            )
            for p, group in enumerate(groups)
        ]

    def _located(self, rollout: Rollout) -> Rollout:
        completion = rollout.completion
        if len(completion.token_ends) == len(completion.token_ids):
            return rollout
        if self.locate is None:
            raise DataError(
                "the advantages of steps need the places of tokens in the text, which this run did "
                "not record: its grpo.advantage was another one."
            )
        ends = tuple(self.locate(completion))
        return replace(rollout, completion=replace(completion, token_ends=ends))

    def _steps(self, rollout: Rollout, names: Sequence[str]) -> StepRewards:
        """The rewards of a completion's steps, by whoever gave them, in order of their ends.

        A completion that a verifier judged as a whole, such as an empty one, is a single step.
        """
        if not rollout.is_valid:
            return StepRewards([], [])
        last = len(rollout.completion.token_ids) - 1
        found: list[tuple[int, float]] = []
        for name in names:
            weight, verdict = self.weights.get(name, 1.0), rollout.verdicts[name]
            if verdict.steps and verdict.score is not None:
                ends = (last_token(rollout.completion, step.end) for step in verdict.steps)
                rewards = (weight * step.score for step in verdict.steps)
                found += zip(ends, rewards, strict=True)
            else:
                found.append((last, rollout.components[name]))
        found.sort(key=lambda pair: pair[0])
        return StepRewards([reward for _, reward in found], [end for end, _ in found])

    def _of_steps(self, steps: Sequence[Sequence[StepRewards]]) -> list[list[list[float]]]:
        """[P][G][S] advantages of steps."""
        size = max(map(len, steps), default=0)
        most = max((len(found.rewards) for row in steps for found in row), default=0)
        if most == 0:
            return [[[] for _ in row] for row in steps]
        rewards = torch.zeros(len(steps), size, most)
        valid = torch.zeros(len(steps), size, most, dtype=torch.bool)
        for p, row in enumerate(steps):
            for g, found in enumerate(row):
                rewards[p, g, : len(found.rewards)] = torch.tensor(found.rewards)
                valid[p, g, : len(found.rewards)] = True
        advantages = _checked(self.estimate(rewards, valid), valid).tolist()
        return [
            [values[: len(found.rewards)] for values, found in zip(lines, row, strict=True)]
            for lines, row in zip(advantages, steps, strict=True)
        ]

    def _share(self, names: Sequence[str]) -> float:
        """Of the steps in the advantage."""
        total = sum(map(abs, self.weights.values()))
        return sum(abs(self.weights.get(name, 1.0)) for name in names) / total if total else 1.0


def bind_estimator(
    estimate: Callable[..., torch.Tensor], parts: Iterable[Part], locate: Locate | None = None
) -> Callable[..., torch.Tensor] | StepEstimator:
    """A registered estimator, ready for groups.

    Args:
        estimate: what grpo.advantage names.
        parts: verifiers and shapers that give rewards.
        locate: see `StepEstimator`.
    """
    if not is_for_steps(estimate):
        return estimate
    return StepEstimator(estimate, {part.name: part.weight for part in parts}, locate)


def verifiers_of_steps(groups: Sequence[RolloutGroup]) -> list[str]:
    """Verifiers with a part in the reward that scored steps of a valid completion."""
    found = {
        name: None
        for group in groups
        for rollout in group.rollouts
        for name, verdict in rollout.verdicts.items()
        if verdict.steps and name in rollout.components
    }
    return list(found)


def require_steps(estimator: object, groups: Sequence[RolloutGroup]) -> None:
    """Refuse verifiers that score completions as a whole only, where the estimator is for steps.

    Raises:
        ConfigError: if none of some valid completions has steps.
    """
    if not isinstance(estimator, StepEstimator):
        return
    valid = [rollout for group in groups for rollout in group.rollouts if rollout.is_valid]
    if valid and not verifiers_of_steps(groups):
        raise ConfigError(
            f"grpo.advantage is for steps, but no verifier ({', '.join(valid[0].components)}) "
            "scores any. Add one that does, such as process_reward, or set grpo.advantage to 'std'."
        )


def last_token(completion: Completion, end: int) -> int:
    """The index of the token that holds the last character before an offset in the text.

    The last step reaches to the last token, which may be an end-of-sequence token.
    """
    last = len(completion.token_ids) - 1
    if end >= len(completion.text):
        return last
    return min(bisect_left(completion.token_ends, end), last)


def _of_wholes(groups: Sequence[RolloutGroup], names: Sequence[str]) -> list[list[float]]:
    """[P][G] advantages of what was rewarded as a whole."""
    rewards = [
        [
            sum(value for name, value in rollout.components.items() if name not in names)
            for rollout in group.rollouts
        ]
        for group in groups
    ]
    valid = [[rollout.is_valid for rollout in group.rollouts] for group in groups]
    return group_advantages(torch.tensor(rewards), torch.tensor(valid)).tolist() if groups else []


def _checked(advantages: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    if advantages.shape != valid.shape:
        problem = f"a tensor {list(advantages.shape)} for {list(valid.shape)} rewards of steps"
    elif not advantages.isfinite().all():
        problem = f"{advantages[~advantages.isfinite()][0].item()}"
    elif (advantages[~valid] != 0).any():
        problem = "an advantage for a step of a completion whose verifier failed"
    else:
        return advantages
    raise PluginError(
        f"the advantage estimator returned {problem}. It must return one finite number for each "
        "reward, 0 where not valid. Repair it, or set grpo.advantage to another one."
    )
