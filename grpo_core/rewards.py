"""From verdicts and shaper values to the reward of each completion of a group.

    reward = sum over verifiers of weight * score + sum over shapers of weight * value

A verdict without a score (abstain, timeout, error) is the verifier's doing, not the candidate's.
Its status's policy decides: "exclude" makes the completion invalid, which the advantage estimator
leaves out of the group; "zero" lets it contribute nothing. The binary verdict that pass rates rest
on is never touched here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grpo_core.config import VerificationConfig, VerifierConfig
from grpo_core.errors import ConfigError, PluginError, ShapeError
from grpo_core.protocols import RewardShaper
from grpo_core.types import Completion, Prompt, ScoredCompletion, Status, Verdict

# A shaper may overstep its range by rounding, relative to the larger bound.
_RANGE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class WeightedShaper:
    """A shaper with the name it is shown under and its weight in the reward."""

    name: str
    weight: float
    shaper: RewardShaper


class Reward(NamedTuple):
    """What one completion earns.

    Attributes:
        components: by verifier and shaper name, weights applied.
        total: exactly math.fsum of the components; None, with no components, if invalid.
    """

    components: Mapping[str, float]
    total: float | None


def score_group(
    prompt: Prompt,
    completions: Sequence[Completion],
    verdicts: Sequence[Sequence[Verdict]],
    verifiers: Sequence[VerifierConfig],
    shapers: Sequence[WeightedShaper],
    policies: VerificationConfig,
    max_new_tokens: int,
) -> list[Reward]:
    """The reward of each completion of one prompt.

    Shapers see the valid completions only, so that no invalid one has a say in another's reward.

    Args:
        prompt: of the group.
        completions: [G].
        verdicts: [G], each in the order of `verifiers`; the first one's is what shapers see.
        verifiers: names and weights.
        shapers: run in this process.
        policies: on_abstain, on_timeout, on_error.
        max_new_tokens: for shapers of length.

    Raises:
        ConfigError: if there is no verifier, or a verifier and a shaper share a name.
        ShapeError: if completions, verdicts, and verifiers do not fit together.
        PluginError: if a shaper raises, returns a wrong number of values, or a value that is no
            finite number or is outside its declared range.
    """
    _check(completions, verdicts, verifiers, shapers)
    parts = [verdict_components(row, verifiers, policies) for row in verdicts]
    group = [
        ScoredCompletion(prompt, completion, row[0], max_new_tokens)
        for completion, row, components in zip(completions, verdicts, parts, strict=True)
        if components is not None
    ]
    shaped = {shaper.name: iter(shaper_components(shaper, group)) for shaper in shapers if group}
    rewards = []
    for components in parts:
        if components is None:
            rewards.append(Reward({}, None))
        else:
            components |= {name: next(values) for name, values in shaped.items()}
            rewards.append(Reward(components, math.fsum(components.values())))
    return rewards


def verdict_components(
    verdicts: Sequence[Verdict], verifiers: Sequence[VerifierConfig], policies: VerificationConfig
) -> dict[str, float] | None:
    """Each verifier's score times its weight, or None if a status's policy is to exclude."""
    policy = {
        Status.ABSTAIN: policies.on_abstain,
        Status.TIMEOUT: policies.on_timeout,
        Status.ERROR: policies.on_error,
    }
    components = {}
    for verifier, verdict in zip(verifiers, verdicts, strict=True):
        if verdict.score is not None:
            components[verifier.name] = verifier.weight * verdict.score
        elif policy[verdict.status] == "zero":
            components[verifier.name] = 0.0
        else:
            return None
    return components


def shaper_components(weighted: WeightedShaper, group: Sequence[ScoredCompletion]) -> list[float]:
    """The weighted value of each completion of the group, checked.

    Raises:
        PluginError: as `score_group`.
    """
    title = f"shaper '{weighted.name}'"
    low, high = _range(weighted)
    try:
        values = list(weighted.shaper.shape(group))
    except Exception as error:  # a stranger's code may raise anything; we attribute it
        raise PluginError(
            f"{title} raised {type(error).__name__}: {error} on prompt '{group[0].prompt.id}'. "
            "Repair it, or remove it from 'shapers'."
        ) from error
    if len(values) != len(group):
        raise PluginError(f"{title} returned {len(values)} values for {len(group)} completions.")
    return [weighted.weight * _checked(value, low, high, title) for value in values]


def _range(weighted: WeightedShaper) -> tuple[float, float]:
    declared = getattr(weighted.shaper, "range", None)
    try:
        low, high = map(float, declared or ())
    except (TypeError, ValueError):
        low = high = math.nan
    if not low <= high:
        raise PluginError(
            f"shaper '{weighted.name}' must declare range = (low, high), got {declared!r:.80}."
        )
    return low, high


def _checked(value: object, low: float, high: float, title: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise PluginError(f"{title} returned {value!r:.80}, which is no number.") from error
    slack = _RANGE_TOLERANCE * max(abs(low), abs(high))
    if not math.isfinite(number) or not low - slack <= number <= high + slack:
        raise PluginError(
            f"{title} returned {number!r}, outside its declared range [{low:g}, {high:g}]. "
            "Correct the shaper, or the range it declares."
        )
    return number


def _check(
    completions: Sequence[Completion],
    verdicts: Sequence[Sequence[Verdict]],
    verifiers: Sequence[VerifierConfig],
    shapers: Sequence[WeightedShaper],
) -> None:
    names = [*(verifier.name for verifier in verifiers), *(shaper.name for shaper in shapers)]
    if not verifiers:
        raise ConfigError("at least one verifier is needed: it gives the binary verdict.")
    if len(verdicts) != len(completions):
        raise ShapeError(f"got verdicts for {len(verdicts)} of {len(completions)} completions.")
    for row in verdicts:
        if len(row) != len(verifiers):
            raise ShapeError(f"got {len(row)} verdicts of {len(verifiers)} verifiers.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"'{twice[0]}' is used twice among verifiers and shapers, so its reward component "
            "would be ambiguous. Configure it once, or register one of them under another name."
        )
