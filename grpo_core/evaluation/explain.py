"""How a recorded completion came by its advantage, from the verdicts on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from grpo_core.config import RunConfig
from grpo_core.errors import DataError
from grpo_core.rollout import AdvantageEstimator, with_advantages
from grpo_core.types import Json, Rollout, RolloutGroup, Verdict

_TOLERANCE = 1e-6  # between advantages, which are float32 numbers


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a reward: contribution = weight * value."""

    name: str
    kind: str
    weight: float
    value: float | None
    contribution: float


@dataclass(frozen=True, slots=True)
class ExplainedRollout:
    """One completion of the group.

    Attributes:
        verdicts: by verifier; those of shadows have no component.
        components: in the order they were added up; none where the completion is invalid.
        deviation_from_mean: its reward minus the group's mean; None where it is invalid.
        steps: where tokens have advantages of their own: the last token of each run of tokens with
            the same one, and that; else empty.
    """

    index: int
    completion: str
    num_tokens: int
    finish_reason: str
    verdicts: dict[str, Verdict]
    components: list[Component]
    reward: float | None
    deviation_from_mean: float | None
    advantage: float
    steps: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class ExplainedGroup:
    """One prompt's group in a step.

    Attributes:
        mean, std: of the rewards of valid completions, the population deviation; None for none.
        estimator: name of the advantage estimator.
        is_reproduced: whether that estimator, asked again, gives the recorded advantages; with a KL
            in reward or advantage it does not, because the KL is not recorded.
    """

    step: int
    prompt_id: str
    prompt: str
    reference: Json
    is_trained: bool
    num_valid: int
    mean: float | None
    std: float | None
    estimator: str
    kl_in: str | None
    is_reproduced: bool
    rollouts: list[ExplainedRollout]


def explain_groups(
    groups: Sequence[RolloutGroup], prompt_id: str, config: RunConfig, estimator: AdvantageEstimator
) -> list[ExplainedGroup]:
    """The groups of a prompt in a step; a prompt may have been drawn twice.

    Args:
        groups: all of the step, as recorded: an estimator may look at the whole batch.
        prompt_id: whose.
        config: the run's.
        estimator: what grpo.advantage names.

    Raises:
        DataError: if the step has no such prompt.
    """
    chosen = [position for position, group in enumerate(groups) if group.prompt.id == prompt_id]
    if not chosen:
        known = ", ".join(dict.fromkeys(f"'{group.prompt.id}'" for group in groups))
        raise DataError(
            f"step {groups[0].step if groups else '?'} has no prompt '{prompt_id}'. It has {known}."
        )
    trained = [position for position, group in enumerate(groups) if group.is_trained]
    again = with_advantages([groups[at] for at in trained], estimator) if trained else []
    asked_again = dict(zip(trained, again, strict=True))
    return [_explain(groups[at], asked_again.get(at), config) for at in chosen]


def _explain(group: RolloutGroup, again: RolloutGroup | None, config: RunConfig) -> ExplainedGroup:
    rewards = [rollout.reward for rollout in group.rollouts if rollout.reward is not None]
    mean = fmean(rewards) if rewards else None
    settings = config.grpo
    priced = settings.beta > 0 and settings.kl_in != "loss"
    return ExplainedGroup(
        step=group.step,
        prompt_id=group.prompt.id,
        prompt=group.prompt.text,
        reference=group.prompt.reference,
        is_trained=group.is_trained,
        num_valid=len(rewards),
        mean=mean,
        std=pstdev(rewards) if rewards else None,
        estimator=settings.advantage,
        kl_in=settings.kl_in if priced else None,
        is_reproduced=_same_advantages(group, again),
        rollouts=[_explain_rollout(rollout, mean, config) for rollout in group.rollouts],
    )


def _same_advantages(group: RolloutGroup, again: RolloutGroup | None) -> bool:
    wanted = [rollout.advantage for rollout in group.rollouts]
    found = [rollout.advantage for rollout in again.rollouts] if again else [0.0] * len(wanted)
    pairs = zip(wanted, found, strict=True)
    return all(abs(a - b) <= _TOLERANCE * max(abs(a), abs(b), 1.0) for a, b in pairs)


def _explain_rollout(rollout: Rollout, mean: float | None, config: RunConfig) -> ExplainedRollout:
    is_known = rollout.reward is not None and mean is not None
    return ExplainedRollout(
        index=rollout.completion.index,
        completion=rollout.completion.text,
        num_tokens=len(rollout.completion.token_ids),
        finish_reason=rollout.completion.finish_reason,
        verdicts=dict(rollout.verdicts),
        components=[
            _component(name, contribution, rollout, config)
            for name, contribution in rollout.components.items()
        ],
        reward=rollout.reward,
        deviation_from_mean=(rollout.reward or 0.0) - (mean or 0.0) if is_known else None,
        advantage=rollout.advantage,
        steps=_runs(rollout.token_advantages),
    )


def _runs(values: Sequence[float]) -> list[tuple[int, float]]:
    following = [*values[1:], None]
    return [
        (at, value)
        for at, (value, after) in enumerate(zip(values, following, strict=False))
        if value != after
    ]


def _component(name: str, contribution: float, rollout: Rollout, config: RunConfig) -> Component:
    verifiers = {verifier.name: verifier.weight for verifier in config.verifiers}
    shapers = {shaper.name: shaper.weight for shaper in config.shapers}
    is_verifier = name in rollout.verdicts
    weight = (verifiers if is_verifier else shapers).get(name, 1.0)
    if is_verifier:
        value = rollout.verdicts[name].score
    else:
        value = contribution / weight if weight else None
    return Component(name, "verifier" if is_verifier else "shaper", weight, value, contribution)
