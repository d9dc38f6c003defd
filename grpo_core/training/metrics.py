"""The line a step writes to metrics.jsonl."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_core.training.update import UpdateResult
from grpo_core.types import Rollout, RolloutGroup, Status


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Wall seconds of a step and its phases."""

    total: float
    sample: float
    verify: float
    train: float


def step_metrics(
    step: int,
    groups: Sequence[RolloutGroup],
    result: UpdateResult,
    times: StepTimes,
    shadows: Sequence[str] = (),
) -> dict[str, float]:
    """Everything worth plotting about a step, as plain numbers.

    All groups that were sampled count, those that were replaced for lack of signal included, or the
    pass rate would be that of a chosen few; `groups_replaced` is their number. Shares are of
    completions, except `zero_signal_share` (of groups without any advantage) and `clipped_share`
    (of trained tokens, in the iterations after the first, where the clip can act). `reward_*` are
    over valid completions, `pass_rate` over completions judged by the first verifier.
    `sampler_logprob_gap` is the mean absolute difference, in nats, between sampler and trainer on
    the same tokens. `entropy` is estimated by the mean of -log p of all tokens that were sampled,
    in nats; no distribution is computed for it, as it is for `trained_entropy` (with an entropy
    bonus). A mean over nothing is NaN.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [rollout.reward for rollout in rollouts if rollout.reward is not None]
    judged = [r.judgement.is_correct for r in rollouts if r.judgement.status.is_candidates]
    statuses = Counter(rollout.judgement.status for rollout in rollouts)
    lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
    no_signal = [not any(rollout.has_signal for rollout in group.rollouts) for group in groups]
    metrics = {
        "step": step,
        "seconds": times.total,
        "reward_mean": _mean(rewards),
        "reward_std": float(np.std(rewards)) if rewards else math.nan,
        "pass_rate": _mean(judged),
        "zero_signal_share": _mean(no_signal),
        "groups_replaced": sum(not group.is_trained for group in groups),
        "valid_share": _mean([rollout.is_valid for rollout in rollouts]),
        "completion_length_mean": _mean(lengths),
        "entropy": _mean([-p for r in rollouts for p in r.completion.sampler_logprobs]),
        "truncated_share": _mean([rollout.completion.is_truncated for rollout in rollouts]),
        **{f"status_{status.value}": statuses[status] for status in Status},
        **_component_means(rollouts),
        **shadow_metrics(groups, shadows),
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        **result.metrics,
        "tokens": sum(lengths),
        "tokens_per_second": sum(lengths) / times.total,
        "seconds_sample": times.sample,
        "seconds_verify": times.verify,
        "seconds_train": times.train,
        **{f"seconds_{phase}": seconds for phase, seconds in result.seconds.items()},
    }
    return metrics


def shadow_metrics(groups: Sequence[RolloutGroup], names: Sequence[str]) -> dict[str, float]:
    """How far verifiers that only watch disagree with the judge.

    For each: `disagreement`, the share of completions that both judged whose binary verdicts
    differ (NaN over none); `accepts`, those of them that it alone calls correct, as a share, too;
    `asked`; and `failed`, where it gave no verdict of its own.
    """
    metrics: dict[str, float] = {}
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    for name in names:
        asked = [rollout for rollout in rollouts if name in rollout.verdicts]
        pairs = [(rollout.judgement, rollout.verdicts[name]) for rollout in asked]
        both = [(j, s) for j, s in pairs if j.status.is_candidates and s.status.is_candidates]
        metrics |= {
            f"shadow/{name}/disagreement": _mean([j.is_correct != s.is_correct for j, s in both]),
            f"shadow/{name}/accepts": _mean([s.is_correct > j.is_correct for j, s in both]),
            f"shadow/{name}/asked": len(asked),
            f"shadow/{name}/failed": sum(not shadow.status.is_candidates for _, shadow in pairs),
        }
    return metrics


def _component_means(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean of each reward component, when there is more than one."""
    names = {name: None for rollout in rollouts for name in rollout.components}
    if len(names) < 2:
        return {}
    return {
        f"component/{name}": _mean([r.components[name] for r in rollouts if name in r.components])
        for name in names
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
