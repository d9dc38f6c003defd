"""Sampling from the weights of before an update while the update changes the policy in place."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from grpo_core.assembly import LoadedModel, create_sampler
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import Plugins
from grpo_core.protocols import OnCompletion, ProbedSampler, Sampler, SamplingParams
from grpo_core.training.learner import Learner
from grpo_core.training.probe import sequence_logprobs
from grpo_core.types import Completion, Prompt


def create_ahead_sampler(
    config: RunConfig, plugins: Plugins, loaded: LoadedModel, learner: Learner
) -> AheadSampler:
    """The engine of sampling.engine over a copy of the policy.

    Raises:
        GrpoError: as `create_sampler`.
    """
    standing = standing_copy(learner.model)
    engine = create_sampler(config, plugins, replace(loaded, model=standing))
    return AheadSampler(engine, standing, learner)


class AheadSampler:
    """See `grpo_core.protocols.ProbedSampler`; may sample in another thread than the trainer's.

    Any engine gets the copy in place of the policy: also one with weights of its own may fetch them
    again at any time, as vLLM does when it was asleep or its server has been restarted.
    """

    def __init__(self, engine: Sampler, standing: PreTrainedModel, learner: Learner) -> None:
        self._engine = engine
        self._standing = standing
        self._learner = learner

    def encode(self, prompt: Prompt) -> Sequence[int]:
        """Token ids of a prompt, chat template applied."""
        return self._engine.encode(prompt)

    def update_weights(self) -> None:
        """Sample from the policy as it is now from here on."""
        refresh(self._standing, self._learner.model)
        self._engine.update_weights()

    def close(self) -> None:
        """Free what the engine holds."""
        self._engine.close()

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> Sequence[Sequence[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`."""
        return self._engine.sample(prompts, num_samples, params, on_completion)

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> Sequence[Sequence[float]]:
        """Log-probabilities by the engine's weights, or by the copy that it reads."""
        if isinstance(self._engine, ProbedSampler):
            return self._engine.probe_logprobs(sequences)
        layout, settings = self._learner.layout, self._learner.config.trainer
        most = settings.micro_batch_tokens
        found = sequence_logprobs(self._standing, layout, sequences, most)
        return [row.tolist() for row in found]


def standing_copy(policy: PreTrainedModel) -> PreTrainedModel:
    """A copy that computes the same and is not trained; weights that are frozen it shares."""
    frozen = {id(weight): weight for weight in policy.parameters() if not weight.requires_grad}
    standing = copy.deepcopy(policy, frozen)
    for module in standing.modules():
        # A forward function of the object's own, as recomputing activations sets one, is not
        # copied with it: it would compute with the weights of the policy.
        module.__dict__.pop("forward", None)
    return standing.requires_grad_(False)


@torch.no_grad()
def refresh(standing: PreTrainedModel, policy: PreTrainedModel) -> None:
    """Copy the weights that are trained."""
    pairs = zip(standing.named_parameters(), policy.named_parameters(), strict=True)
    for (name, kept), (other, weight) in pairs:
        assert name == other
        if weight.requires_grad:
            kept.copy_(weight)
