"""From prompts to judged groups: sample, verify while sampling goes on, reward, weigh."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from grpo_core.config import VerificationConfig, VerifierConfig
from grpo_core.rewards import WeightedShaper, score_group
from grpo_core.types import (
    Completion,
    Prompt,
    Rollout,
    RolloutGroup,
    Sample,
    Sampler,
    SamplingParams,
    Verdict,
)
from grpo_core.verification.budget import ErrorBudget
from grpo_core.verification.pool import VerifierPool

AdvantageEstimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Judge:
    """What turns completions into rewards.

    Attributes:
        pool: worker processes of the verifiers.
        verifiers: names and weights; the first one's verdict is the binary one.
        shapers: reward components beside the verdicts.
        settings: what becomes of verdicts that are not the candidate's doing.
        budget: stops the run when verifiers fail too often.
    """

    pool: VerifierPool
    verifiers: Sequence[VerifierConfig]
    shapers: Sequence[WeightedShaper]
    settings: VerificationConfig
    budget: ErrorBudget


@dataclass(frozen=True, slots=True)
class Collection:
    """Judged groups, and how long they took.

    Attributes:
        seconds_sample: until the last completion was sampled.
        seconds_verify: from then until the last verdict; the rest was hidden behind sampling.
    """

    groups: list[RolloutGroup]
    seconds_sample: float
    seconds_verify: float


def collect(
    prompts: Sequence[Prompt],
    sampler: Sampler,
    judge: Judge,
    num_samples: int,
    params: SamplingParams,
    *,
    step: int = 0,
    on_progress: OnProgress | None = None,
) -> Collection:
    """Sample `num_samples` completions for each prompt and judge them.

    A completion is handed to its verifiers as soon as it is finished.

    Raises:
        ErrorBudgetExceeded: if verifiers failed on too large a share of recent completions.
        PluginError: if a shaper breaks its contract.
    """
    started = time.perf_counter()
    pending: list[dict[int, list[Future[Verdict]]]] = [{} for _ in prompts]
    total = len(prompts) * num_samples

    def submit(at: int, completion: Completion) -> None:
        prompt = prompts[at]
        sample = Sample(prompt.text, completion.text, prompt.reference, prompt.meta)
        pending[at][completion.index] = [
            judge.pool.submit(verifier.name, sample) for verifier in judge.verifiers
        ]
        if on_progress is not None:
            on_progress(sum(map(len, pending)), total)

    completions = sampler.sample(prompts, num_samples, params, submit)
    sampled = time.perf_counter()
    groups = []
    for at, prompt in enumerate(prompts):
        verdicts = [
            [future.result() for future in pending[at][completion.index]]
            for completion in completions[at]
        ]
        for completion, row in zip(completions[at], verdicts, strict=True):
            for verdict in row:
                judge.budget.observe(verdict, prompt, completion)
        rollouts = _rollouts(prompt, completions[at], verdicts, judge, params.max_new_tokens)
        groups.append(RolloutGroup(prompt, tuple(sampler.encode(prompt)), rollouts, step))
    return Collection(groups, sampled - started, time.perf_counter() - sampled)


def _rollouts(
    prompt: Prompt,
    completions: Sequence[Completion],
    verdicts: Sequence[Sequence[Verdict]],
    judge: Judge,
    max_new_tokens: int,
) -> tuple[Rollout, ...]:
    rewards = score_group(
        prompt,
        completions,
        verdicts,
        judge.verifiers,
        judge.shapers,
        judge.settings,
        max_new_tokens,
    )
    names = [verifier.name for verifier in judge.verifiers]
    return tuple(
        Rollout(completion, dict(zip(names, row, strict=True)), reward.components, reward.total)
        for completion, row, reward in zip(completions, verdicts, rewards, strict=True)
    )


def with_advantages(
    groups: Sequence[RolloutGroup], estimator: AdvantageEstimator
) -> list[RolloutGroup]:
    """The same groups with every rollout's advantage filled in.

    Args:
        groups: all of one size.
        estimator: from rewards [P, G] and validity [P, G] to advantages [P, G].
    """
    rewards = torch.tensor(
        [[rollout.reward or 0.0 for rollout in group.rollouts] for group in groups]
    )
    valid = torch.tensor([[rollout.is_valid for rollout in group.rollouts] for group in groups])
    advantages = estimator(rewards, valid).tolist()
    return [
        replace(
            group,
            rollouts=tuple(
                replace(rollout, advantage=advantage)
                for rollout, advantage in zip(group.rollouts, row, strict=True)
            ),
        )
        for group, row in zip(groups, advantages, strict=True)
    ]
