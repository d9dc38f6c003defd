"""The GRPO loop, on a page.

Shao et al. 2024 (arXiv 2402.03300), algorithm 1: sample G completions for each of P prompts, let
verifiers judge them, compare each with its group, and make the better ones likelier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from grpo_core.config import RunConfig
from grpo_core.protocols import Sampler, SamplingParams
from grpo_core.rollout import (
    AdvantageEstimator,
    Collection,
    Judge,
    OnProgress,
    collect,
    with_advantages,
)
from grpo_core.sampling.base import derive_seed
from grpo_core.training.ahead import Batches
from grpo_core.training.canary import HandOver, create_canary
from grpo_core.training.kl_price import with_kl_price
from grpo_core.training.learner import Learner
from grpo_core.training.metrics import StepTimes, step_metrics
from grpo_core.training.selection import PromptSource, collect_groups
from grpo_core.training.update import update
from grpo_core.types import Json, Prompt, RolloutGroup


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of the loop hands out.

    Attributes:
        groups: all that were sampled; judged, with advantages.
        metrics: the line for metrics.jsonl.
        selection: the state of the prompt source after the step, and after drawing `ahead`.
        ahead: the groups of the next step, where they have been sampled already.
        failure: set when they could not be sampled, or the new weights did not reach the sampler.
            The step itself is sound and can be saved; the loop raises this when it is asked to go
            on.
    """

    number: int
    groups: Sequence[RolloutGroup]
    metrics: dict[str, float]
    selection: Mapping[str, Json]
    ahead: Sequence[RolloutGroup] | None = None
    failure: Exception | None = None


def grpo_steps(
    learner: Learner,
    sampler: Sampler,
    judge: Judge,
    prompts: Sequence[Prompt],
    source: PromptSource,
    estimate_advantages: AdvantageEstimator,
    first_step: int,
    *,
    kept: Sequence[RolloutGroup] | None = None,
    on_progress: OnProgress | None = None,
    on_scored: Callable[[int, Sequence[RolloutGroup]], None] | None = None,
) -> Generator[Step, None, None]:
    """Train from `first_step` to the last, yielding after each step.

    Every step is a function of the weights, the optimiser's moments, the reference, the prompt
    source, the config, its own number, and with selection.ahead of the batch that the step before
    has left, which is `kept` for the first; the loop has no other state, and can be left and taken
    up again between any two steps.

    Raises:
        ErrorBudgetExceeded: if verifiers fail too often. TrainingError: if a loss or gradient is
            not finite. With grpo.num_iterations = 1 the weights are those of the step before.
        SamplingError: if the sampler has other weights than the learner.
    """
    config = learner.config
    canary = create_canary(learner, sampler, prompts)
    if (refused := canary.check().failure) is not None:
        raise refused

    make = _batch_maker(config, sampler, judge, prompts, source, estimate_advantages)
    with Batches(make, source, config, on_progress, kept) as batches:
        for step in range(first_step, config.trainer.steps + 1):
            started = time.perf_counter()
            batch = batches.take(step)
            collection = batch.collection
            trained, groups, kl = _estimated(learner, collection, estimate_advantages)
            if on_scored is not None:
                on_scored(step, groups)

            scored = time.perf_counter()
            batches.begin(step + 1)  # beside the update, with the weights of before it
            result = update(learner, trained, step)
            learner.masters.complete = False  # no checkpoint of these weights under the last number
            move_reference(learner, step)
            failure = batches.finish()
            handed = HandOver({}) if failure else canary.hand_over()
            failure = failure or handed.failure
            times = StepTimes(
                total=time.perf_counter() - started,
                sample=collection.seconds_sample,
                verify=collection.seconds_verify,
                train=time.perf_counter() - scored - batches.waited,
            )
            shadows = [shadow.name for shadow in judge.shadows]
            metrics = step_metrics(step, groups, result, times, shadows)
            metrics |= {**kl, **batch.metrics, **handed.metrics}
            learner.masters.complete = True
            yield Step(step, groups, metrics, batches.selection, batches.kept, failure)
            if failure is not None:
                raise failure


def _estimated(
    learner: Learner, collection: Collection, estimate_advantages: AdvantageEstimator
) -> tuple[Sequence[RolloutGroup], list[RolloutGroup], Mapping[str, float]]:
    """The groups to train on with their advantages, all groups, and the metrics of the KL."""
    trained = [group for group in collection.groups if group.is_trained]
    estimate, kl = with_kl_price(learner, trained, estimate_advantages)
    trained = with_advantages(trained, estimate)
    return trained, [*trained, *(g for g in collection.groups if not g.is_trained)], kl


def _batch_maker(
    config: RunConfig,
    sampler: Sampler,
    judge: Judge,
    prompts: Sequence[Prompt],
    source: PromptSource,
    estimate_advantages: AdvantageEstimator,
) -> Callable[[int, OnProgress | None], Collection]:
    """What samples and judges the batch of a step, in as many rounds as dynamic sampling takes."""

    def make(step: int, on_progress: OnProgress | None) -> Collection:
        def collect_round(indices: Sequence[int], number: int) -> Collection:
            batch = [prompts[index] for index in indices]
            size, params = config.grpo.group_size, sampling_params(config, step, number)
            return collect(batch, sampler, judge, size, params, step=step, on_progress=on_progress)

        return collect_groups(config, source, collect_round, estimate_advantages)

    return make


def sampling_params(config: RunConfig, step: int, number: int = 0) -> SamplingParams:
    """How the completions of a training step are drawn, in its round `number`."""
    sampling = config.sampling
    again = ("round", number) if number else ()
    return SamplingParams(
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=sampling.stop,
        seed=derive_seed(config.seed, "step", step, *again),
    )


def move_reference(learner: Learner, step: int) -> None:
    """After every reference.sync_every-th step, move the reference towards the policy."""
    settings = learner.config.reference
    if learner.reference is not None and settings.sync_every and step % settings.sync_every == 0:
        with learner.world.order("move_reference", step=step):
            learner.reference.follow(learner.masters.parameters, settings.sync_rate)
