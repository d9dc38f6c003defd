"""A sampler over an engine that has weights of its own: prompts in, completions out.

Each completion has a seed of its own, so it is the same whatever it is batched with (up to
rounding) and wherever the engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from grpo_core.errors import SamplingError
from grpo_core.models.load import eos_token_ids
from grpo_core.protocols import OnCompletion, SamplingParams
from grpo_core.sampling.base import (
    SamplerContext,
    check_finite,
    completion_seed,
    completion_text,
    encode_prompt,
    first_draws,
)
from grpo_core.sampling.vllm.messages import Drawn, Draws, Engine, Order
from grpo_core.sampling.vllm.weights import checkpoint_weights
from grpo_core.types import Completion, FinishReason, Prompt
from grpo_core.validation import build


class EngineSampler:
    """Samples with an engine; see `Sampler` and `ProbedSampler` in grpo_core.protocols."""

    def __init__(self, context: SamplerContext, engine: Engine) -> None:
        self._policy = context.model
        self._tokenizer = context.tokenizer
        self._eos = eos_token_ids(context.model, context.tokenizer)
        self._engine = engine
        self.update_weights()

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return encode_prompt(self._tokenizer, prompt)

    def update_weights(self) -> None:
        """Write the policy's weights over the engine's, adapters added in.

        Raises:
            SamplingError: if the engine does not take them, or some of its weights got none.
            ConfigError: if the policy has adapters of another kind than LoRA.
        """
        self._engine.wake()
        self._engine.load(checkpoint_weights(self._policy).items())

    def close(self) -> None:
        """Stop the engine, or leave it."""
        self._engine.close()

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`.

        Raises:
            ConfigError: if the engine knows no such draws. SamplingError: if it fails.
        """
        encoded = [self.encode(prompt) for prompt in prompts]
        self._check_lengths(prompts, encoded, params)
        order = self._order(prompts, encoded, num_samples, params)
        groups: list[list[Completion]] = [[] for _ in prompts]
        self._wake()
        with closing(self._engine.draw(order)) as steps:
            for drawn in filter(None, steps):
                completion = self._completion(drawn, params)
                groups[drawn.prompt].append(completion)
                if on_completion is not None:
                    on_completion(drawn.prompt, completion)
        self._engine.rest()
        return [sorted(group, key=lambda completion: completion.index) for group in groups]

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first; see `grpo_core.protocols.ProbedSampler`."""
        self._wake()
        return self._engine.score(sequences)

    def _wake(self) -> None:
        if self._engine.wake():
            self.update_weights()

    def _order(
        self,
        prompts: Sequence[Prompt],
        encoded: Sequence[Sequence[int]],
        num_samples: int,
        params: SamplingParams,
    ) -> Order:
        first = first_draws(prompts, num_samples)
        draws = [
            Draws(
                token_ids=tuple(token_ids),
                seeds=tuple(
                    completion_seed(params.seed, prompt.id, start + index)
                    for index in range(num_samples)
                ),
            )
            for prompt, token_ids, start in zip(prompts, encoded, first, strict=True)
        ]
        values = {
            "prompts": tuple(draws),
            "eos": tuple(sorted(self._eos)),
            "max_new_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "stop": tuple(params.stop),
        }
        return build(Order, values, "sampling")

    def _completion(self, drawn: Drawn, params: SamplingParams) -> Completion:
        for position, logprob in enumerate(drawn.logprobs):
            check_finite(logprob, position)
        logprobs = drawn.logprobs
        if params.temperature == 0:
            logprobs = (0.0,) * len(logprobs)  # certainty, which is how they were drawn
        reason = _finish_reason(drawn, self._eos)
        return Completion(
            token_ids=drawn.token_ids,
            text=completion_text(self._tokenizer, drawn.token_ids, reason, params.stop),
            sampler_logprobs=logprobs,
            finish_reason=reason,
            index=drawn.index,
        )

    def _check_lengths(
        self, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], params: SamplingParams
    ) -> None:
        most = self._engine.max_length
        for prompt, token_ids in zip(prompts, encoded, strict=True):
            if len(token_ids) + params.max_new_tokens > most:
                raise SamplingError(
                    f"prompt '{prompt.id}' has {len(token_ids)} tokens; with "
                    f"sampling.max_new_tokens = {params.max_new_tokens} it exceeds the {most} "
                    "that vLLM has room for. Lower sampling.max_new_tokens, or raise "
                    "sampling.kv_cache_gb if the model itself takes more."
                )


def _finish_reason(drawn: Drawn, eos: frozenset[int]) -> FinishReason:
    if drawn.token_ids and drawn.token_ids[-1] in eos:
        return "eos"
    match drawn.reason:
        case "stop" | "length" as reason:
            return reason
    raise SamplingError(
        f"vLLM ended a completion after {len(drawn.token_ids)} tokens with the reason "
        f"'{drawn.reason:.100}', which is none of eos, stop and length. Its log, with "
        "VLLM_LOGGING_LEVEL=INFO, may say why."
    )
