"""The vLLM engine: continuous batching and a paged key-value cache, in this process.

vLLM keeps a copy of the policy's weights in a layout of its own. `update_weights` writes the
policy's over it after every optimiser step, and `probe_logprobs` lets the trainer find out whether
they arrived. One request stands for one completion, with a seed of its own, so a completion is the
same whatever it is batched with (up to rounding); vLLM's prefix cache shares the prompt.

The draws are vLLM's, not those of the embedded engine: the same seed gives other completions.
Left out: several GPUs, an engine in another process or on another machine, adapters.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from importlib.util import find_spec
from typing import Any

from grpo_core.errors import MissingExtraError, SamplingError
from grpo_core.models.load import eos_token_ids
from grpo_core.sampling.base import (
    SamplerContext,
    check_finite,
    completion_seed,
    completion_text,
    encode_prompt,
    first_draws,
)
from grpo_core.sampling.vllm.start import start_vllm
from grpo_core.sampling.vllm.weights import hand_over
from grpo_core.types import Completion, FinishReason, OnCompletion, Prompt, SamplingParams

_Request = tuple[Sequence[int], Any]  # prompt token ids, vLLM's SamplingParams


class VllmSampler:
    """Samples with vLLM; see `grpo_core.types.Sampler` and `grpo_core.types.ProbedSampler`."""

    @staticmethod
    def check_installed() -> None:
        """Tell whether vLLM is there, without importing it.

        Raises:
            MissingExtraError: if it is not.
        """
        if find_spec("vllm") is None:
            raise MissingExtraError("sampling.engine 'vllm'", "vllm")

    def __init__(self, context: SamplerContext) -> None:
        self.check_installed()
        self._policy = context.model
        self._tokenizer = context.tokenizer
        self._eos = eos_token_ids(context.model, context.tokenizer)
        # Between sampling phases the trainer needs a GPU's memory more; vLLM can sleep there only.
        self._can_sleep = context.model.device.type == "cuda"
        self._is_asleep = False
        self._llm = start_vllm(context, can_sleep=self._can_sleep)
        self.update_weights()

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return encode_prompt(self._tokenizer, prompt)

    def update_weights(self) -> None:
        """Write the policy's weights over vLLM's, and forget the keys and values of the old ones.

        Raises:
            SamplingError: if vLLM does not take them, or some of its weights got none.
        """
        if self._is_asleep:
            self._wake()  # hands over, too
            return
        hand_over(self._policy, self._llm)
        if not self._llm.reset_prefix_cache():
            raise SamplingError(
                "vLLM did not drop the cached prompts of the old weights: requests are still "
                "running. This is a fault in grpo-core; please report it."
            )

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        self._llm.llm_engine.engine_core.shutdown()

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.types.Sampler`."""
        encoded = [self.encode(prompt) for prompt in prompts]
        self._check_lengths(prompts, encoded, params)
        first = first_draws(prompts, num_samples)
        requests = {
            f"{at}-{index}": (encoded[at], self._request(prompt, first[at] + index, params))
            for at, prompt in enumerate(prompts)
            for index in range(num_samples)
        }
        groups: list[list[Completion]] = [[] for _ in prompts]
        self._wake()
        with closing(self._run(requests)) as finished:
            for name, result in finished:
                at, index = map(int, name.split("-"))
                completion = self._completion(result.outputs[0], index, params)
                groups[at].append(completion)
                if on_completion is not None:
                    on_completion(at, completion)
        self._sleep()
        return [sorted(group, key=lambda completion: completion.index) for group in groups]

    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first; see `grpo_core.types.ProbedSampler`."""
        from vllm.sampling_params import RequestOutputKind
        from vllm.sampling_params import SamplingParams as VllmParams

        scoring = VllmParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        requests = {str(at): (sequence, scoring) for at, sequence in enumerate(sequences)}
        self._wake()
        results = dict(self._run(requests))
        return [
            _chosen(results[str(at)].prompt_logprobs[1:], sequence[1:])
            for at, sequence in enumerate(sequences)
        ]

    def _request(self, prompt: Prompt, draw: int, params: SamplingParams) -> Any:
        """One completion in vLLM's words."""
        from vllm.sampling_params import RequestOutputKind
        from vllm.sampling_params import SamplingParams as VllmParams

        return VllmParams(
            max_tokens=params.max_new_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            stop=list(params.stop),
            # The set the trainer knows of, and nothing vLLM may have read elsewhere.
            stop_token_ids=sorted(self._eos),
            ignore_eos=True,
            seed=completion_seed(params.seed, prompt.id, draw),
            logprobs=0,  # of the drawn token alone
            detokenize=bool(params.stop),  # only to find stop strings
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, requests: Mapping[str, _Request]) -> Generator[tuple[str, Any], None, None]:
        """Run requests side by side, yielding each when it is finished.

        Those still running when the caller closes the iterator are dropped.
        """
        engine = self._llm.llm_engine
        waiting = set(requests)
        try:
            for name, (token_ids, params) in requests.items():
                engine.add_request(name, {"prompt_token_ids": list(token_ids)}, params)
            while engine.has_unfinished_requests():
                for result in engine.step():
                    if result.finished:
                        waiting.discard(result.request_id)
                        yield result.request_id, result
        finally:
            engine.abort_request(sorted(waiting))

    def _completion(self, output: Any, index: int, params: SamplingParams) -> Completion:
        """A result of vLLM as a record of ours."""
        token_ids = tuple(output.token_ids)
        logprobs = _chosen(output.logprobs, token_ids)
        for position, logprob in enumerate(logprobs):
            check_finite(logprob, position)
        if params.temperature == 0:
            logprobs = [0.0] * len(logprobs)  # certainty, which is how they were drawn
        reason = _finish_reason(output, self._eos)
        return Completion(
            token_ids=token_ids,
            text=completion_text(self._tokenizer, token_ids, reason, params.stop),
            sampler_logprobs=tuple(logprobs),
            finish_reason=reason,
            index=index,
        )

    def _check_lengths(
        self, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], params: SamplingParams
    ) -> None:
        most = self._llm.llm_engine.model_config.max_model_len
        for prompt, token_ids in zip(prompts, encoded, strict=True):
            if len(token_ids) + params.max_new_tokens > most:
                raise SamplingError(
                    f"prompt '{prompt.id}' has {len(token_ids)} tokens; with "
                    f"sampling.max_new_tokens = {params.max_new_tokens} it exceeds the {most} "
                    "that vLLM has room for. Lower sampling.max_new_tokens, or raise "
                    "sampling.kv_cache_gb if the model itself takes more."
                )

    def _wake(self) -> None:
        """Take the GPU's memory back; what was dropped includes the weights."""
        if self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False
            self.update_weights()

    def _sleep(self) -> None:
        """Leave the GPU's memory to the trainer, weights and all: it has them anyway."""
        if self._can_sleep:
            self._llm.sleep(level=2)
            self._is_asleep = True


def _chosen(positions: Sequence[Mapping[int, Any]], token_ids: Sequence[int]) -> list[float]:
    """The log-probabilities of the tokens that stand there."""
    return [
        float(position[token].logprob) for position, token in zip(positions, token_ids, strict=True)
    ]


def _finish_reason(output: Any, eos: frozenset[int]) -> FinishReason:
    if output.token_ids and output.token_ids[-1] in eos:
        return "eos"
    match output.finish_reason:
        case "stop" | "length" as reason:
            return reason
    raise SamplingError(
        f"vLLM ended a completion after {len(output.token_ids)} tokens with the reason "
        f"'{output.finish_reason}', which is none of eos, stop and length. Its log, with "
        "VLLM_LOGGING_LEVEL=INFO, may say why."
    )
