"""From judged groups to new weights: the optimiser steps on one batch of samples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch

from grpo_core.config import RunConfig
from grpo_core.errors import TrainingError
from grpo_core.records.rollouts import rollouts_to_bytes
from grpo_core.sampling.base import derive_seed
from grpo_core.training.dealing import deal, pack
from grpo_core.training.gradient import gradient_norm, scale_gradient
from grpo_core.training.learner import Learner
from grpo_core.training.objective import (
    BatchCounts,
    Known,
    kl_weight,
    micro_batch_loss,
    reference_logprobs,
)
from grpo_core.training.offenders import offenders
from grpo_core.training.optimizer import learning_rate, set_learning_rate
from grpo_core.training.packing import MicroBatch, TrainingCompletion
from grpo_core.training.phase_clock import PhaseClock
from grpo_core.training.policy import trainer_mode
from grpo_core.types import Rollout, RolloutGroup


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What the optimiser steps on one batch report, on average over them.

    Attributes:
        loss: of the whole batch.
        grad_norm: before clipping.
        metrics: means over trained tokens; `clipped_share` is that of the iterations after the
            first, where there are some.
        seconds: of this process, by phase: `logprobs` of the reference, `forward_backward` with the
            gradient's norm, and `optimizer` with the rounding of its weights.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    metrics: dict[str, float]
    seconds: dict[str, float]


def update(learner: Learner, groups: Sequence[RolloutGroup], step: int) -> UpdateResult:
    """Take grpo.num_iterations optimiser steps, each on the gradient of all groups.

    Completions that cannot change the gradient (advantage 0, no KL and no entropy bonus) are not
    computed; they still count in the loss's denominators, so the gradient does not depend on
    leaving them out. With selection.mask_truncated a truncated completion counts as an empty one:
    among the completions, and with no tokens.
    Where none is left there is no gradient, and the weights and moments stay as they are.

    Raises:
        TrainingError: if loss or gradient is not finite. The weights are then those from before
            that optimiser step, and `learner.masters.complete` tells whether it was the first one.
    """
    with learner.world.order("update", lambda: rollouts_to_bytes(groups), step=step):
        return _update(learner, groups, step)


def _update(learner: Learner, groups: Sequence[RolloutGroup], step: int) -> UpdateResult:
    config = learner.config
    counts = batch_counts(groups, config)
    batches = _micro_batches(learner, groups)
    known = [Known()] * len(batches)
    clock = PhaseClock(learner.model.device)
    # Nothing here is random; should a loss of a plugin be, a resumed run repeats it.
    torch.manual_seed(derive_seed(config.seed, "update", step))
    rate = learning_rate(config.trainer, step)
    reports = []
    for iteration in range(1, config.grpo.num_iterations + 1):
        totals, found = _accumulate(learner, batches, counts, known, clock)
        known = found if iteration == 1 else known
        norm = gradient_norm(learner)
        if not (math.isfinite(totals["loss"]) and math.isfinite(norm)):
            raise _not_finite(learner, groups, counts, (totals["loss"], norm, iteration))
        _clip(learner, norm)
        clock.ends("forward_backward")
        _take_step(learner, rate, is_last=iteration == config.grpo.num_iterations)
        clock.ends("optimizer")
        reports.append({"loss": totals["loss"], "grad_norm": norm, **_means(totals)})
    mean = {name: fmean(report[name] for report in reports) for name in reports[0]}
    later = reports[1:] or reports  # in the first iteration the ratio is 1 and nothing is clipped
    mean["clipped_share"] = fmean(report["clipped_share"] for report in later)
    return UpdateResult(mean.pop("loss"), mean.pop("grad_norm"), rate, mean, clock.seconds)


def batch_counts(groups: Sequence[RolloutGroup], config: RunConfig) -> BatchCounts:
    """The denominators of the loss over all groups."""
    valid = [rollout for group in groups for rollout in group.rollouts if rollout.is_valid]
    tokens = sum(
        len(rollout.completion.token_ids) for rollout in valid if not _is_masked(rollout, config)
    )
    return BatchCounts(len(valid), tokens)


def _micro_batches(learner: Learner, groups: Sequence[RolloutGroup]) -> list[MicroBatch]:
    """This process's share of them."""
    world, max_tokens = learner.world, learner.config.trainer.micro_batch_tokens
    completions = _trained_completions(groups, learner.config)
    share = learner.layout.share_prompts
    return deal(completions, max_tokens, world.rank, world.size, share_prompts=share)


def _trained_completions(
    groups: Sequence[RolloutGroup], config: RunConfig
) -> list[TrainingCompletion]:
    return [
        TrainingCompletion(
            group.prompt_token_ids,
            rollout.completion.token_ids,
            rollout.token_advantages or rollout.advantage,
            rollout.completion.sampler_logprobs,
        )
        for group in groups
        for rollout in group.rollouts
        if _is_trained(rollout, config)
    ]


def _is_trained(rollout: Rollout, config: RunConfig) -> bool:
    always = kl_weight(config) > 0 or config.grpo.entropy_bonus > 0
    return (
        rollout.is_valid
        and (always or rollout.has_signal)
        and not _is_masked(rollout, config)
        and len(rollout.completion.token_ids) > 0
    )


def _is_masked(rollout: Rollout, config: RunConfig) -> bool:
    return config.selection.mask_truncated and rollout.completion.is_truncated


def _accumulate(
    learner: Learner,
    batches: Sequence[MicroBatch],
    counts: BatchCounts,
    known: Sequence[Known],
    clock: PhaseClock,
) -> tuple[dict[str, float], list[Known]]:
    """Add up the gradient of all micro-batches.

    Returns:
        sums over all of them, in all processes, and the log-probabilities of each of this
        process's under the policy as it is and the reference.
    """
    totals: defaultdict[str, float] = defaultdict(float, loss=0.0)
    current: list[Known] = []
    learner.optimizer.zero_grad(set_to_none=True)
    with trainer_mode(learner.model, learner.layout):
        for micro_batch, before in zip(batches, known, strict=True):
            batch = micro_batch.to(learner.model.device)
            if before.reference is None:
                clock.ends("forward_backward")
                before = replace(before, reference=reference_logprobs(learner, batch))
                clock.ends("logprobs")
            loss, sums, logprobs = micro_batch_loss(learner, batch, counts, before)
            loss.backward()
            totals["loss"] += loss.item()
            totals["trained_tokens"] += len(batch.targets)
            for name, value in sums.items():
                totals[name] += value.item()
            current.append(replace(before, old=logprobs))
    return learner.world.sum(totals), current


def _clip(learner: Learner, norm: float) -> None:
    factor = learner.config.trainer.max_grad_norm / (norm + 1e-6)
    if factor < 1:
        scale_gradient(learner, factor)


def _not_finite(
    learner: Learner,
    groups: Sequence[RolloutGroup],
    counts: BatchCounts,
    found: tuple[float, float, int],
) -> Exception:
    """The error for a loss or gradient norm, found in an iteration, that is no number."""
    max_tokens, share = learner.config.trainer.micro_batch_tokens, learner.layout.share_prompts
    alone = [
        (
            group.prompt.id,
            list(
                pack(_trained_completions([group], learner.config), max_tokens, share_prompts=share)
            ),
        )
        for group in groups
    ]
    loss, norm, iteration = found
    culprits = offenders(learner, alone, counts, has_moved=iteration > 1)
    names = ", ".join(culprits or [group.prompt.id for group in groups])
    whose = "Prompts at fault" if culprits else "None of these prompts does it alone"
    when = f" in iteration {iteration}" if learner.config.grpo.num_iterations > 1 else ""
    return learner.world.agreed(
        TrainingError(
            f"loss {loss} or gradient norm {norm} is not finite{when}; the weights were left as "
            f"they were. {whose}: {names}. A smaller trainer.learning_rate or trainer.dtype = "
            "'float32' usually helps, in a new run with model.path set to the last checkpoint."
        )
    )


def _take_step(learner: Learner, rate: float, *, is_last: bool) -> None:
    learner.masters.complete = False
    set_learning_rate(learner.optimizer, rate)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.masters.publish()
    learner.masters.complete = is_last


def _means(totals: Mapping[str, float]) -> dict[str, float]:
    trained = totals.get("trained_tokens", 0.0)
    clipped = totals.get("clipped_low_tokens", 0.0) + totals.get("clipped_high_tokens", 0.0)
    tokens = trained or math.nan  # a mean over nothing is no number
    means = {
        "trained_tokens": trained,
        "clipped_share": clipped / tokens,
        "sampler_logprob_gap": totals.get("gap_sum", 0.0) / tokens,
    }
    for name, metric in (
        ("kl_sum", "kl"),
        ("entropy_sum", "trained_entropy"),
        ("mismatch_weight_sum", "mismatch_weight"),
        ("mismatch_masked_tokens", "mismatch_masked_share"),
    ):
        if name in totals:
            means[metric] = totals[name] / tokens
    return means
