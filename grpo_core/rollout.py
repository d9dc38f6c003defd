"""From prompts to judged groups: sample, verify while sampling goes on, reward, weigh."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from grpo_core.config import VerificationConfig, VerifierConfig
from grpo_core.errors import PluginError, SamplingError
from grpo_core.protocols import Sampler, SamplingParams
from grpo_core.rewards import WeightedShaper, score_group
from grpo_core.sampling.base import derive_seed
from grpo_core.step_advantages import StepEstimator
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Sample, Verdict
from grpo_core.verification.budget import ErrorBudget
from grpo_core.verification.pool import VerifierPool

AdvantageEstimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | StepEstimator
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
        shadows: verifiers that only watch a share of the completions; see `VerifierConfig`.
    """

    pool: VerifierPool
    verifiers: Sequence[VerifierConfig]
    shapers: Sequence[WeightedShaper]
    settings: VerificationConfig
    budget: ErrorBudget
    shadows: Sequence[VerifierConfig] = ()

    def without_shadows(self) -> Judge:
        """The same judge, unwatched."""
        return replace(self, shadows=())


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

    A completion is handed to its verifiers as soon as it is finished. The verdicts of shadows are
    kept beside the others and do nothing: their failures do not count, either.

    Raises:
        ErrorBudgetExceeded: if verifiers failed on too large a share of recent completions.
        PluginError: if a shaper breaks its contract. SamplingError: if the sampler does.
    """
    started = time.perf_counter()
    pending: list[dict[int, dict[str, Future[Verdict]]]] = [{} for _ in prompts]
    total = len(prompts) * num_samples

    def submit(at: int, completion: Completion) -> None:
        sample = sample_of(prompts[at], completion)
        watching = _watching(judge, prompts[at], completion, params.seed)
        pending[at][completion.index] = {
            verifier.name: judge.pool.submit(verifier.name, sample)
            for verifier in [*judge.verifiers, *watching]
        }
        if on_progress is not None:
            on_progress(sum(map(len, pending)), total)

    completions = sampler.sample(prompts, num_samples, params, submit)
    _check_complete(completions, pending, num_samples)
    sampled = time.perf_counter()
    groups = []
    for at, prompt in enumerate(prompts):
        verdicts = [
            {name: future.result() for name, future in pending[at][completion.index].items()}
            for completion in completions[at]
        ]
        for completion, row in zip(completions[at], verdicts, strict=True):
            for verifier in judge.verifiers:
                judge.budget.observe(row[verifier.name], prompt, completion)
        rollouts = _rollouts(prompt, completions[at], verdicts, judge, params.max_new_tokens)
        groups.append(RolloutGroup(prompt, tuple(sampler.encode(prompt)), rollouts, step))
    return Collection(groups, sampled - started, time.perf_counter() - sampled)


def sample_of(prompt: Prompt, completion: Completion) -> Sample:
    """What verifiers see of a completion."""
    return Sample(
        prompt.text,
        completion.text,
        prompt.reference,
        prompt.meta,
        prompt.messages,
        completion.token_ids,
    )


def _watching(
    judge: Judge, prompt: Prompt, completion: Completion, seed: int
) -> list[VerifierConfig]:
    """The shadows that look at this completion; the draw is the same in a run's repetition."""
    watching = []
    for shadow in judge.shadows:
        drawn = random.Random(derive_seed(seed, "shadow", shadow.name, prompt.id, completion.index))
        if drawn.random() < (shadow.shadow_rate or 0.0):
            watching.append(shadow)
    return watching


def _check_complete(
    completions: Sequence[Sequence[Completion]],
    handed: Sequence[Mapping[int, object]],
    num_samples: int,
) -> None:
    """Every completion that was asked for came back, in order, and was handed over on the way."""
    wanted = list(range(num_samples))
    for at, seen in enumerate(handed):
        group = completions[at] if at < len(completions) else ()
        if [completion.index for completion in group] != wanted or sorted(seen) != wanted:
            raise SamplingError(
                f"the sampler returned {len(group)} completions of prompt {at} and handed over "
                f"{len(seen)}; it must do both for each of {num_samples}, numbered from 0."
            )


def _rollouts(
    prompt: Prompt,
    completions: Sequence[Completion],
    verdicts: Sequence[Mapping[str, Verdict]],
    judge: Judge,
    max_new_tokens: int,
) -> tuple[Rollout, ...]:
    rewards = score_group(
        prompt,
        completions,
        [[row[verifier.name] for verifier in judge.verifiers] for row in verdicts],
        judge.verifiers,
        judge.shapers,
        judge.settings,
        max_new_tokens,
    )
    return tuple(
        Rollout(completion, row, reward.components, reward.total)
        for completion, row, reward in zip(completions, verdicts, rewards, strict=True)
    )


def with_advantages(
    groups: Sequence[RolloutGroup], estimator: AdvantageEstimator
) -> list[RolloutGroup]:
    """The same groups with every rollout's advantage filled in.

    Args:
        groups: all of one size.
        estimator: from rewards [P, G] and validity [P, G] to advantages [P, G]; or one for steps,
            which gives every token its own.

    Raises:
        PluginError: if it returns another shape, a number that is not finite, or an advantage for a
            rollout that is not valid.
    """
    if isinstance(estimator, StepEstimator):
        return estimator.weigh(groups)
    rewards = torch.tensor(
        [[rollout.reward or 0.0 for rollout in group.rollouts] for group in groups]
    )
    valid = torch.tensor([[rollout.is_valid for rollout in group.rollouts] for group in groups])
    advantages = _checked(estimator(rewards, valid), valid).tolist()
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


def _checked(advantages: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    if advantages.shape != valid.shape:
        problem = f"a tensor {list(advantages.shape)} for {list(valid.shape)} rewards"
    elif not advantages.isfinite().all():
        problem = f"{advantages[~advantages.isfinite()][0].item()}"
    elif (advantages[~valid] != 0).any():
        problem = "an advantage for a completion whose verifier failed"
    else:
        return advantages
    raise PluginError(
        f"the advantage estimator returned {problem}. It must return one finite number for each "
        "reward, 0 where not valid. Repair it, or set grpo.advantage to another one."
    )
