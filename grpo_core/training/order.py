"""Which prompts a step trains on: a pure function of the seed and the step.

There is no state to save, so a resumed run sees exactly the prompts the uninterrupted one would.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from grpo_core.sampling.base import derive_seed


def prompt_indices(num_prompts: int, per_step: int, step: int, seed: int) -> list[int]:
    """Indices of the prompts of `step` (counting from 1).

    The data set is gone through in epochs, each in a new order; a step may span two of them.
    """
    first = (step - 1) * per_step
    return [_index(num_prompts, position, seed) for position in range(first, first + per_step)]


def _index(num_prompts: int, position: int, seed: int) -> int:
    epoch, offset = divmod(position, num_prompts)
    return int(_epoch_order(num_prompts, epoch, seed)[offset])


@lru_cache(maxsize=2)
def _epoch_order(num_prompts: int, epoch: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(derive_seed(seed, "order", epoch))
    return generator.permutation(num_prompts)
