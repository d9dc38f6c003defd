"""What a micro-batch adds to the loss of its step, and to its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from grpo_core.config import RunConfig
from grpo_core.masking import masked_sum, token_weights
from grpo_core.mismatch import mismatch_weights
from grpo_core.training.learner import Learner
from grpo_core.training.packing import MicroBatch
from grpo_core.training.policy import completion_logprobs, completion_logprobs_and_entropy


class BatchCounts(NamedTuple):
    """The denominators of the whole batch, over all micro-batches and processes.

    Attributes:
        completions: valid ones, those that are not computed included.
        tokens: of the valid completions that are trained on.
    """

    completions: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Known:
    """Log-probabilities of a micro-batch that stay the same in all iterations on its batch.

    Attributes:
        old: [B, T] under the policy that sampled; None where that is the policy as it is, whose own
            log-probabilities are the exact old ones.
        reference: [B, T] under the reference; None where the loss has no KL.
    """

    old: Tensor | None = None
    reference: Tensor | None = None


class MicroBatchLoss(NamedTuple):
    """A micro-batch's share of the loss.

    Attributes:
        loss: scalar, to be differentiated.
        sums: counts and sums over its tokens, scalars.
        logprobs: [B, T] of the policy as it is, without gradient.
    """

    loss: Tensor
    sums: dict[str, Tensor]
    logprobs: Tensor


def micro_batch_loss(
    learner: Learner, batch: MicroBatch, counts: BatchCounts, known: Known
) -> MicroBatchLoss:
    """The loss of one micro-batch, with the policy's entropy and the KL as the config has them.

    Args:
        learner: policy, reference, loss and config.
        batch: on the policy's device.
        counts: of the whole batch.
        known: what was computed of it before.

    Returns:
        The loss with the loss function's sums and, besides, `gap_sum` of the absolute difference
        of sampler and trainer; `entropy_sum` where grpo.entropy_bonus asks for it; and
        `mismatch_weight_sum` and `mismatch_masked_tokens` where sampling.mismatch does.
    """
    settings, config = learner.config.grpo, learner.config
    mask = batch.completion_mask
    logprobs, entropy = _policy_terms(learner, batch)
    current = logprobs.detach()
    old = current if known.old is None else known.old
    weights = token_weights(
        mask,
        settings.aggregation,
        num_completions=counts.completions,
        num_tokens=counts.tokens,
        max_new_tokens=config.sampling.max_new_tokens,
    )
    sums = {"gap_sum": masked_sum((old - batch.sampler_logprobs).abs(), mask)}
    advantages = batch.advantages
    if (how := config.sampling.mismatch) != "off":
        # Every loss is proportional to the advantage, save for its KL, which is not reweighted.
        factor = mismatch_weights(
            old, batch.sampler_logprobs, mask, how, cap=config.sampling.mismatch_cap
        )
        advantages = (advantages if advantages.ndim == 2 else advantages.unsqueeze(1)) * factor
        sums["mismatch_weight_sum"] = factor.sum()
        sums["mismatch_masked_tokens"] = (mask & (factor == 0)).sum()
    output = learner.loss(
        logprobs,
        old,
        advantages,
        weights,
        completion_mask=mask,
        epsilon_low=settings.epsilon_low,
        epsilon_high=settings.epsilon_high,
        beta=kl_weight(config),
        ref_logprobs=known.reference,
        kl_estimator=settings.kl_estimator,
    )
    loss = output.loss
    if entropy is not None:
        loss = loss - settings.entropy_bonus * (entropy * weights).sum()
        sums["entropy_sum"] = masked_sum(entropy.detach(), mask)
    return MicroBatchLoss(loss, {**output.metrics, **sums}, current)


def kl_weight(config: RunConfig) -> float:
    """Weight of the KL in the loss; elsewhere it is part of the advantage already."""
    return config.grpo.beta if config.grpo.kl_in == "loss" else 0.0


def _policy_terms(learner: Learner, batch: MicroBatch) -> tuple[Tensor, Tensor | None]:
    """[B, T] log-probabilities, and entropies where the config gives them a weight."""
    arguments = (learner.model, batch, learner.layout, learner.distribution)
    if learner.config.grpo.entropy_bonus == 0:
        return completion_logprobs(*arguments), None
    return completion_logprobs_and_entropy(*arguments)


def reference_logprobs(learner: Learner, batch: MicroBatch) -> Tensor | None:
    """[B, T] under the reference, where the loss has a KL; without gradient."""
    if learner.reference is None or kl_weight(learner.config) == 0:
        return None
    with learner.reference.computing(learner.layout) as model:
        return completion_logprobs(model, batch, learner.layout, learner.distribution)
