"""The KL to the reference as a price in rewards or advantages (grpo.kl_in)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from grpo_core.advantages.kl_penalty import subtract_kl
from grpo_core.errors import ConfigError, TrainingError
from grpo_core.losses.parts import KL_ESTIMATORS
from grpo_core.records.rollouts import rollouts_to_bytes
from grpo_core.rollout import AdvantageEstimator
from grpo_core.step_advantages import StepEstimator
from grpo_core.training.dealing import deal
from grpo_core.training.learner import Learner
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import completion_logprobs, trainer_mode
from grpo_core.types import RolloutGroup


def with_kl_price(
    learner: Learner, groups: Sequence[RolloutGroup], estimate: AdvantageEstimator
) -> tuple[AdvantageEstimator, dict[str, float]]:
    """The estimator with the KL subtracted from its rewards or from its advantages.

    Where the KL belongs into the loss, or beta is 0, the estimator comes back as it is and nothing
    is computed. Otherwise policy and reference score the completions once more.

    Returns:
        The estimator for exactly these groups, and the metric `kl`, nats a token.

    Raises:
        ConfigError: if the estimator is one for steps.
        TrainingError: if a completion's KL is not finite, as that of k3 is where the reference
            finds a token e^88 times likelier than the policy does.
    """
    settings = learner.config.grpo
    if settings.beta == 0 or settings.kl_in == "loss":
        return estimate, {}
    if isinstance(estimate, StepEstimator):
        raise ConfigError(
            f"grpo.kl_in is '{settings.kl_in}', but grpo.advantage is for steps, and the KL of a "
            "completion belongs to none of them. Set grpo.kl_in = 'loss'."
        )
    of_rewards = estimate
    kl = completion_kls(learner, groups)
    if not kl.isfinite().all():
        names = [g.prompt.id for g, row in zip(groups, kl, strict=True) if not row.isfinite().all()]
        raise TrainingError(
            f"the KL to the reference of completions of {', '.join(names)} is not finite, so it "
            f"cannot be subtracted from the {settings.kl_in}; the weights were left as they were. "
            "A smaller trainer.learning_rate or grpo.kl_estimator = 'k1' usually helps."
        )
    tokens = sum(len(rollout.completion.token_ids) for g in groups for rollout in g.rollouts)
    metrics = {"kl": kl.sum().item() / tokens if tokens else math.nan}

    def in_reward(rewards: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return of_rewards(subtract_kl(rewards, kl, settings.beta, valid), valid)

    def in_advantage(rewards: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return subtract_kl(of_rewards(rewards, valid), kl, settings.beta, valid)

    return (in_reward if settings.kl_in == "reward" else in_advantage), metrics


@torch.no_grad()
def completion_kls(learner: Learner, groups: Sequence[RolloutGroup]) -> torch.Tensor:
    """[P, G] KL of each completion to the reference: its tokens' estimates, summed.

    The estimate is the one of grpo.kl_estimator, under the sampling temperature.
    """
    with learner.world.order("completion_kls", lambda: rollouts_to_bytes(groups)):
        return _completion_kls(learner, groups)


def _completion_kls(learner: Learner, groups: Sequence[RolloutGroup]) -> torch.Tensor:
    world = learner.world
    config, layout, reference = learner.config, learner.layout, learner.reference
    assert reference is not None, "beta is positive"
    rollouts = [(group, rollout) for group in groups for rollout in group.rollouts]
    completions = [
        TrainingCompletion(
            group.prompt_token_ids,
            rollout.completion.token_ids,
            0.0,
            rollout.completion.sampler_logprobs,
            place,
        )
        for place, (group, rollout) in enumerate(rollouts)
        if rollout.completion.token_ids
    ]
    kls = torch.zeros(len(rollouts), dtype=torch.float64)
    estimate = KL_ESTIMATORS[config.grpo.kl_estimator]
    distribution = learner.distribution
    max_tokens = config.trainer.micro_batch_tokens
    share = layout.share_prompts
    for batch in deal(completions, max_tokens, world.rank, world.size, share_prompts=share):
        batch = batch.to(learner.model.device)
        with trainer_mode(learner.model, learner.layout):
            logprobs = completion_logprobs(learner.model, batch, layout, distribution)
        with reference.computing(layout) as model:
            ref_logprobs = completion_logprobs(model, batch, layout, distribution)
        per_token = estimate(logprobs, ref_logprobs)  # both are 0 where masked, and so is it
        kls[batch.places.cpu()] += per_token.double().sum(-1).cpu()  # an empty one adds nothing
    return world.sum_tensor(kls).reshape(len(groups), -1)
