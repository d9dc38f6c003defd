"""Find the prompts whose completions make a loss or gradient that is no number.

This costs a backward pass a prompt, and is done only once something has gone wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from grpo_core.training.gradient import gradient_norm
from grpo_core.training.learner import Learner
from grpo_core.training.objective import (
    BatchCounts,
    Known,
    micro_batch_loss,
    reference_logprobs,
)
from grpo_core.training.packing import MicroBatch
from grpo_core.training.policy import trainer_mode


def offenders(
    learner: Learner,
    batches_by_prompt: Sequence[tuple[str, Sequence[MicroBatch]]],
    counts: BatchCounts,
    *,
    has_moved: bool = False,
) -> list[str]:
    """Ids of the prompts that alone give a loss or gradient that is not finite, without repetition.

    Args:
        learner: with the weights that failed; its gradients are lost.
        batches_by_prompt: the micro-batches of each prompt alone.
        counts: of the whole batch.
        has_moved: whether the policy is no longer the one that sampled, as in later iterations, so
            that the ratio may be what is not finite. The old log-probabilities are then the
            sampler's: those of the trainer lie in other micro-batches.
    """
    found: dict[str, None] = {}
    for prompt_id, batches in batches_by_prompt:
        if not _is_finite(learner, batches, counts, has_moved):
            found[prompt_id] = None
    learner.optimizer.zero_grad(set_to_none=True)
    return list(found)


def _is_finite(
    learner: Learner, batches: Sequence[MicroBatch], counts: BatchCounts, has_moved: bool
) -> bool:
    learner.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    with trainer_mode(learner.model, learner.layout):
        for batch in batches:
            batch = batch.to(learner.model.device)
            old = batch.sampler_logprobs if has_moved else None
            known = Known(old, reference_logprobs(learner, batch))
            loss = micro_batch_loss(learner, batch, counts, known).loss
            loss.backward()
            total += loss.item()
    return math.isfinite(total) and math.isfinite(gradient_norm(learner))
