"""Pass rates of judged groups, with 95% intervals clustered by prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_core.intervals import clustered_interval
from grpo_core.pass_at_k import pass_at_k
from grpo_core.types import RolloutGroup, Status


def pass_rates(groups: Sequence[RolloutGroup]) -> dict[str, Any]:
    """pass@1 and unbiased pass@k (Chen et al. 2021, arXiv 2107.03374, eq. 1) of a set of prompts.

    Rests on the binary verdict alone, never on shaped rewards. Completions on which the verifier
    itself failed (abstain, timeout, error) are left out and counted under "statuses"; a prompt
    with fewer than k judged completions is left out of pass@k.

    Returns:
        "pass_at_1" and "pass_at_k" (k = 1, 2, 4, ... up to the number of completions) as
        {"mean", "low", "high"}; "statuses" counts; "num_prompts", "num_samples", "num_judged",
        "truncated_share", "completion_length_mean", "by_level" where prompts carry a level.
    """
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    num_samples = max((len(group.rollouts) for group in groups), default=0)
    statuses = Counter(rollout.judgement.status.value for rollout in rollouts)
    lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
    rates = {str(k): _interval(groups, k) for k in _powers_of_two(num_samples)}
    return {
        "num_prompts": len(groups),
        "num_samples": num_samples,
        "num_judged": sum(statuses[status.value] for status in Status if status.is_candidates),
        "pass_at_1": rates.get("1"),
        "pass_at_k": rates,
        "statuses": {status.value: statuses[status.value] for status in Status},
        "truncated_share": _mean([rollout.completion.is_truncated for rollout in rollouts]),
        "completion_length_mean": _mean(lengths),
        "by_level": _by_level(groups),
    }


def _powers_of_two(limit: int) -> list[int]:
    """1, 2, 4, ..., and the limit itself."""
    powers = [2**exponent for exponent in range(limit.bit_length()) if 2**exponent <= limit]
    return powers if not limit or powers[-1] == limit else [*powers, limit]


def _interval(groups: Sequence[RolloutGroup], k: int) -> dict[str, float] | None:
    """None when no prompt has k judged completions."""
    counts = [_judged_and_correct(group) for group in groups]
    usable = [(judged, correct) for judged, correct in counts if judged >= k]
    if not usable:
        return None
    judged, correct = np.array(usable).T
    rates = pass_at_k(judged, correct, k)
    return clustered_interval(rates, num_completions=int(judged.sum()))._asdict()


def _judged_and_correct(group: RolloutGroup) -> tuple[int, int]:
    judged = [r.judgement for r in group.rollouts if r.judgement.status.is_candidates]
    return len(judged), sum(verdict.is_correct for verdict in judged)


def _by_level(groups: Sequence[RolloutGroup]) -> Mapping[str, Any]:
    levels: dict[str, list[RolloutGroup]] = {}
    for group in groups:
        if "level" in group.prompt.meta:
            levels.setdefault(str(group.prompt.meta["level"]), []).append(group)
    return {level: _interval(members, 1) for level, members in sorted(levels.items())}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
