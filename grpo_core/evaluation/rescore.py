"""Judge the recorded completions of a run again, with another verifier or a newer one.

Rewards and advantages are computed twice by the same code, once from the recorded verdicts and once
with the new ones in place of the old verifier's, so that every difference is the verifier's doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from grpo_core.config import RunConfig, VerifierConfig
from grpo_core.errors import ConfigError, DataError, unknown_name
from grpo_core.rewards import WeightedShaper, score_group
from grpo_core.rollout import AdvantageEstimator, sample_of, with_advantages
from grpo_core.types import Rollout, RolloutGroup, Sample, Verdict

Change = Literal["flipped", "gained", "lost", "changed", "same"]
Judges = Callable[[Sequence[Sample]], Sequence[Verdict]]

_TOLERANCE = 1e-6  # between advantages, which are float32 numbers


@dataclass(frozen=True, slots=True)
class Rescored:
    """One completion before and after.

    Attributes:
        group: position of its group in the step.
        old, new: the verdict that was replaced, and the one in its place.
        recorded: the advantage it was trained with.
        before, after: the advantages computed from the old and from the new verdicts.
        is_trained: False in a group that was replaced for lack of signal; both advantages are 0.
    """

    step: int
    group: int
    prompt_id: str
    index: int
    completion: str
    old: Verdict
    new: Verdict
    recorded: float
    before: float
    after: float
    is_trained: bool

    @property
    def change(self) -> Change:
        """What became of the advantage: another sign, one where there was none, none any more."""
        old, new = _sign(self.before), _sign(self.after)
        if old * new < 0:
            return "flipped"
        if old != new:
            return "gained" if old == 0 else "lost"
        scale = max(abs(self.before), abs(self.after), 1.0)
        return "changed" if abs(self.after - self.before) > _TOLERANCE * scale else "same"

    @property
    def is_reproduced(self) -> bool:
        """True when the recorded verdicts give the recorded advantage again."""
        scale = max(abs(self.before), abs(self.recorded), 1.0)
        return abs(self.before - self.recorded) <= _TOLERANCE * scale


@dataclass(frozen=True, slots=True)
class Rewarding:
    """How a run turns verdicts into advantages.

    Attributes:
        verifiers: those that give rewards; the first is the judge.
    """

    config: RunConfig
    verifiers: Sequence[VerifierConfig]
    shapers: Sequence[WeightedShaper]
    estimator: AdvantageEstimator


def rewarding_verifiers(
    config: RunConfig, groups: Sequence[RolloutGroup]
) -> Sequence[VerifierConfig]:
    """The verifiers that gave a run's rewards: the config's, or the one the task brought.

    Raises:
        DataError: if no verdict is recorded.
    """
    listed = [verifier for verifier in config.verifiers if not verifier.is_shadow]
    if listed:
        return listed
    recorded = [name for group in groups for r in group.rollouts for name in list(r.verdicts)[:1]]
    if not recorded:
        raise DataError("no verdicts are recorded, so there is nothing to score again.")
    return [VerifierConfig(name=recorded[0])]


def choose_replaced(name: str, replaced: str | None, verifiers: Sequence[VerifierConfig]) -> str:
    """Whose verdicts the verifier `name` takes the place of: its own earlier ones, or the judge's.

    Raises:
        ConfigError: if `replaced` gave no rewards in the run.
    """
    names = [verifier.name for verifier in verifiers]
    if replaced is not None and replaced not in names:
        raise ConfigError(unknown_name("verifier of the run", replaced, names))
    return replaced or (name if name in names else names[0])


def rescore_step(
    groups: Sequence[RolloutGroup], judge: Judges, replaced: str, rewarding: Rewarding
) -> list[Rescored]:
    """All completions of a step before and after.

    Args:
        groups: those of one step, as recorded.
        judge: the new verifier: one verdict a sample, in order.
        replaced: name of the verifier whose verdicts make way.
        rewarding: how the run made advantages of verdicts.

    Raises:
        DataError: if a completion has no verdict of that name.
        PluginError: if a shaper or the estimator breaks its contract.
    """
    samples = [sample_of(g.prompt, r.completion) for g in groups for r in g.rollouts]
    verdicts = iter(judge(samples))
    changed = [
        replace(
            group, rollouts=[_with_verdict(r, replaced, next(verdicts)) for r in group.rollouts]
        )
        for group in groups
    ]
    before, after = (_advantages(version, rewarding) for version in (groups, changed))
    return [
        Rescored(
            step=group.step,
            group=position,
            prompt_id=group.prompt.id,
            index=old.completion.index,
            completion=old.completion.text,
            old=old.verdicts[replaced],
            new=new.verdicts[replaced],
            recorded=old.advantage,
            before=before[position][at],
            after=after[position][at],
            is_trained=group.is_trained,
        )
        for position, (group, other) in enumerate(zip(groups, changed, strict=True))
        for at, (old, new) in enumerate(zip(group.rollouts, other.rollouts, strict=True))
    ]


def transitions(rescored: Sequence[Rescored]) -> Counter[tuple[str, str]]:
    """How many verdicts went from one status to another."""
    return Counter((str(item.old.status), str(item.new.status)) for item in rescored)


def _with_verdict(rollout: Rollout, name: str, verdict: Verdict) -> Rollout:
    if name not in rollout.verdicts:
        raise DataError(
            f"a recorded completion has no verdict of '{name}', only of "
            f"{', '.join(rollout.verdicts) or 'nobody'}. Is config.json this run's?"
        )
    return replace(rollout, verdicts={**rollout.verdicts, name: verdict})


def _advantages(groups: Sequence[RolloutGroup], rewarding: Rewarding) -> list[list[float]]:
    """The advantages of each group's completions; zeros for a group that is not trained on."""
    rewarded = [_with_rewards(group, rewarding) for group in groups]
    trained = [group for group in rewarded if group.is_trained]
    estimated: Iterator[RolloutGroup] = iter(
        with_advantages(trained, rewarding.estimator) if trained else ()
    )
    return [
        [rollout.advantage for rollout in next(estimated).rollouts]
        if group.is_trained
        else [0.0] * len(group.rollouts)
        for group in rewarded
    ]


def _with_rewards(group: RolloutGroup, rewarding: Rewarding) -> RolloutGroup:
    rewards = score_group(
        group.prompt,
        [rollout.completion for rollout in group.rollouts],
        [[r.verdicts[v.name] for v in rewarding.verifiers] for r in group.rollouts],
        rewarding.verifiers,
        rewarding.shapers,
        rewarding.config.verification,
        rewarding.config.sampling.max_new_tokens,
    )
    rollouts = tuple(
        replace(rollout, components=reward.components, reward=reward.total, advantage=0.0)
        for rollout, reward in zip(group.rollouts, rewards, strict=True)
    )
    return replace(group, rollouts=rollouts)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
