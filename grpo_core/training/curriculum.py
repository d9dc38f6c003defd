"""Prompts of middling difficulty come more often.

A group's rewards differ, and teach something, only if the policy gets the prompt right sometimes
and wrong sometimes: their variance is p (1 - p) at a pass rate of p. So prompts are drawn, without
repetition within a draw, with a weight of

    w = floor + 4 p (1 - p)

where p is estimated from what has been seen of the prompt, and, as long as that is little, from
prompts of the same difficulty:

    p = (correct + strength * prior) / (judged + strength)

The floor lets every prompt come back now and then, since a pass rate once seen goes stale. For the
same reason counts fade: they are halved (for a whole difficulty: times 0.98) whenever the prompt is
seen again.

Source: sampling by learnability p (1 - p), Foster et al. 2025, "Learning to Reason at the
Frontier of Learnability", arXiv 2502.12272; the prior by difficulty and the fading are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from grpo_core.sampling.base import derive_seed
from grpo_core.types import Json, Prompt, RolloutGroup

_FLOOR = 0.05
_STRENGTH = 2.0  # completions that the prior is worth
_FADING = 0.5
_FADING_OF_DIFFICULTY = 0.98
_Counts = tuple[float, float]  # judged, correct


class MiddlingFirst:
    """Hands out prompts by the pass rates seen so far; see `PromptSource`."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed: int,
        difficulty_key: str | None = None,
        state: Mapping[str, Json] | None = None,
    ) -> None:
        state = state or {}
        self._seed = seed
        self._draws = int(state.get("draws", 0))
        self._difficulties = [_difficulty(prompt, difficulty_key) for prompt in prompts]
        self._prompts = _counts({int(k): v for k, v in state.get("prompts", {}).items()})
        self._seen = _counts(dict(state.get("difficulties", {})))

    def draw(self, count: int) -> list[int]:
        """Indices of the next prompts, all different as far as there are enough."""
        generator = np.random.default_rng(derive_seed(self._seed, "curriculum", self._draws))
        self._draws += 1
        indices: list[int] = []
        while len(indices) < count:  # more than once only in a tiny data set
            indices += _weighted_order(self.weights(), generator)[: count - len(indices)]
        return indices

    def observe(self, indices: Sequence[int], groups: Sequence[RolloutGroup]) -> None:
        """Note the binary verdicts of drawn prompts."""
        for index, group in zip(indices, groups, strict=True):
            verdicts = [rollout.judgement for rollout in group.rollouts]
            judged = [verdict.is_correct for verdict in verdicts if verdict.status.is_candidates]
            difficulty = self._difficulties[index]
            _add(self._prompts, index, judged, _FADING)
            _add(self._seen, difficulty, judged, _FADING_OF_DIFFICULTY)

    def state(self) -> dict[str, Json]:
        """The counts and the number of draws: all that a resume needs."""
        return {
            "draws": self._draws,
            "prompts": {str(index): list(counts) for index, counts in self._prompts.items()},
            "difficulties": {name: list(counts) for name, counts in self._seen.items()},
        }

    def weights(self) -> np.ndarray:
        """[number of prompts] how much each wants to be drawn."""
        rates = {name: _rate(counts, 0.5) for name, counts in self._seen.items()}
        p = np.array([rates.get(difficulty, 0.5) for difficulty in self._difficulties])
        for index, counts in self._prompts.items():
            p[index] = _rate(counts, p[index])
        return _FLOOR + 4 * p * (1 - p)


def _difficulty(prompt: Prompt, key: str | None) -> str:
    return "" if key is None else str(prompt.meta.get(key, ""))


def _counts(saved: Mapping) -> dict:
    return {name: (float(judged), float(correct)) for name, (judged, correct) in saved.items()}


def _add(counts: dict, name: Json, judged: Sequence[bool], fading: float) -> None:
    before: _Counts = counts.get(name, (0.0, 0.0))
    if judged:
        counts[name] = (fading * before[0] + len(judged), fading * before[1] + sum(judged))


def _rate(counts: _Counts, prior: float) -> float:
    judged, correct = counts
    return (correct + _STRENGTH * prior) / (judged + _STRENGTH)


def _weighted_order(weights: np.ndarray, generator: np.random.Generator) -> list[int]:
    """All indices in the order in which they would be drawn, one by one, by weight.

    Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir".
    """
    keys = generator.exponential(size=len(weights)) / weights
    return np.argsort(keys, kind="stable").tolist()
