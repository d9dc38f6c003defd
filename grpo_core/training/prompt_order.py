"""Prompts in epochs: each comes once before any comes again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from grpo_core.sampling.base import derive_seed
from grpo_core.types import Json, RolloutGroup


class EpochOrder:
    """Hands out prompts in a new random order each epoch; see `PromptSource`.

    The order is a pure function of the seed; what a resume needs is how far it has come.
    """

    def __init__(self, num_prompts: int, seed: int, position: int = 0) -> None:
        self._num_prompts = num_prompts
        self._seed = seed
        self._position = position

    def draw(self, count: int) -> list[int]:
        """Indices of the next prompts; they may span two epochs."""
        first, self._position = self._position, self._position + count
        return [self._index(position) for position in range(first, self._position)]

    def observe(self, indices: Sequence[int], groups: Sequence[RolloutGroup]) -> None:
        """What came of them changes nothing."""

    def state(self) -> dict[str, Json]:
        """How many prompts have been handed out."""
        return {"position": self._position}

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, self._num_prompts)
        return int(_epoch_order(self._num_prompts, epoch, self._seed)[offset])


@lru_cache(maxsize=2)
def _epoch_order(num_prompts: int, epoch: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(derive_seed(seed, "order", epoch))
    return generator.permutation(num_prompts)
