"""The embedded engine, as the rest of the framework sees it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from grpo_core.models.load import eos_token_ids
from grpo_core.protocols import OnCompletion, SamplingParams
from grpo_core.sampling.base import (
    SamplerContext,
    completion_text,
    encode_prompt,
    first_draws,
    uniforms,
)
from grpo_core.sampling.hf.decoder import DecoderPasses
from grpo_core.sampling.hf.own_forward import OwnForward, check_served
from grpo_core.sampling.hf.passes import Passes
from grpo_core.sampling.hf.plain import read_plain_decoder
from grpo_core.sampling.hf.products import can_pack
from grpo_core.sampling.hf.schedule import Batch, Row
from grpo_core.sampling.hf.stops import StopWatch
from grpo_core.types import Completion, Prompt

# A prompt is kept apart from its rows where at least so many follow it and it is at least so long;
# below, putting two parts of attention together costs more than reading it once for each (measured)
_FOLLOWERS = 3
_PROMPT_TOKENS = 128


def create_sampler(context: SamplerContext) -> HfSampler:
    """The engine registered as "hf"."""
    return HfSampler(context)


class HfSampler:
    """Samples from a transformers causal language model; see `grpo_core.protocols.Sampler`."""

    def __init__(self, context: SamplerContext) -> None:
        check_served(context.model)
        self._model = context.model
        self._tokenizer = context.tokenizer
        self._batch_size = context.config.batch_size
        self._eos = eos_token_ids(context.model, context.tokenizer)
        self._pad = int(context.tokenizer.pad_token_id or 0)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return encode_prompt(self._tokenizer, prompt)

    def update_weights(self) -> None:
        """Nothing to do: the policy's own weights are read at the start of every call."""

    def close(self) -> None:
        """Nothing to free: the model belongs to the trainer."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`."""
        groups: list[list[Completion]] = [[] for _ in prompts]
        rows = self._rows(prompts, num_samples, params)
        was_training = self._model.training
        self._model.eval()
        try:
            passes = open_passes(
                self._model, self._pad, prompts_apart=_keep_apart(rows, num_samples)
            )
            batch = Batch(rows, passes, params, self._eos, self._batch_size)
            while not batch.is_done:
                for row in batch.advance():
                    completion = self._completion(row, params)
                    groups[row.prompt].append(completion)
                    if on_completion is not None:
                        on_completion(row.prompt, completion)
        finally:
            self._model.train(was_training)
        return [sorted(group, key=lambda completion: completion.index) for group in groups]

    def _rows(
        self, prompts: Sequence[Prompt], num_samples: int, params: SamplingParams
    ) -> list[Row]:
        first = first_draws(prompts, num_samples)
        length = params.max_new_tokens
        encoded = [tuple(self.encode(prompt)) for prompt in prompts]
        return [
            Row(
                prompt=at,
                index=index,
                prompt_ids=encoded[at],
                uniforms=uniforms(params.seed, prompt.id, first[at] + index, length),
                stop_watch=StopWatch(self._tokenizer, params.stop),
            )
            for at, prompt in enumerate(prompts)
            for index in range(num_samples)
        ]

    def _completion(self, row: Row, params: SamplingParams) -> Completion:
        assert row.finish_reason is not None
        return Completion(
            token_ids=tuple(row.token_ids),
            text=completion_text(self._tokenizer, row.token_ids, row.finish_reason, params.stop),
            sampler_logprobs=tuple(row.logprobs),
            finish_reason=row.finish_reason,
            index=row.index,
        )


def _keep_apart(rows: Sequence[Row], num_samples: int) -> bool:
    """Whether prompts are kept once for all the rows that follow them."""
    tokens = sum(len(row.prompt_ids) for row in rows)
    return num_samples >= _FOLLOWERS and tokens >= _PROMPT_TOKENS * len(rows)


@torch.inference_mode()
def open_passes(model: PreTrainedModel, pad: int, *, prompts_apart: bool) -> Passes:
    """Passes through a model with the weights that it has now.

    They hold copies of these weights on the CPU, so they are for one call: the next one sees what
    the optimiser did, and in between training has the memory.

    Args:
        model: of a kind that `check_served` lets pass.
        pad: token that fills up short prompts; never looked at.
        prompts_apart: keep a prompt once for all rows that follow it, where that is possible.
    """
    decoder = read_plain_decoder(model)
    if decoder is None:
        return OwnForward(model, pad)
    return DecoderPasses(decoder, prompts_apart=prompts_apart)


def describe_engine(model: PreTrainedModel) -> str:
    """How completions are computed, in one line for people."""
    decoder = read_plain_decoder(model)
    if decoder is None:
        return "the model's own forward pass"
    weights = "packed for the CPU" if can_pack(decoder.embedding) else "as they are"
    return f"a forward pass made for decoding, weights {weights}"
