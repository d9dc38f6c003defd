"""The embedded engine: samples from the policy's own transformers model, in this process.

Each prompt is computed once and its key-value cache shared out to its completions; finished rows
leave the batch. Every completion has its own stream of random numbers, so it is the same whatever
it is batched with (up to rounding).

Left out: continuous batching; waiting prompts start when the whole batch is done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from grpo_core.errors import ConfigError
from grpo_core.models.load import eos_token_ids
from grpo_core.protocols import OnCompletion, SamplingParams
from grpo_core.sampling.base import (
    SamplerContext,
    check_finite,
    completion_text,
    cut_at_stop,
    encode_prompt,
    first_draws,
    uniforms,
)
from grpo_core.sampling.distribution import draw
from grpo_core.types import Completion, FinishReason, Prompt

_COMPACT_BELOW = 0.75  # share of unfinished rows at which gathering the cache pays for itself


@dataclass(slots=True)
class _Row:
    """A completion in the making."""

    prompt: int
    index: int
    uniforms: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def create_sampler(context: SamplerContext) -> HfSampler:
    """The engine registered as "hf"."""
    return HfSampler(context)


class HfSampler:
    """Samples from a transformers causal language model; see `grpo_core.protocols.Sampler`."""

    def __init__(self, context: SamplerContext) -> None:
        _check_cache(context.model)
        self._model = context.model
        self._tokenizer = context.tokenizer
        self._batch_size = context.config.batch_size
        self._eos = eos_token_ids(context.model, context.tokenizer)
        self._pad = int(context.tokenizer.pad_token_id or 0)

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, chat template applied."""
        return encode_prompt(self._tokenizer, prompt)

    def update_weights(self) -> None:
        """Nothing to do: the policy's own weights are sampled from."""

    def close(self) -> None:
        """Nothing to free: the model belongs to the trainer."""

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        params: SamplingParams,
        on_completion: OnCompletion | None = None,
    ) -> list[list[Completion]]:
        """Draw `num_samples` completions for each prompt; see `grpo_core.protocols.Sampler`."""
        encoded = [self.encode(prompt) for prompt in prompts]
        length = params.max_new_tokens
        first = first_draws(prompts, num_samples)
        rows = [
            _Row(at, index, uniforms(params.seed, prompt.id, first[at] + index, length))
            for at, prompt in enumerate(prompts)
            for index in range(num_samples)
        ]
        groups: list[list[Completion]] = [[] for _ in prompts]
        was_training = self._model.training
        self._model.eval()
        try:
            # Prompts of like length side by side waste the least padding.
            rows.sort(key=lambda row: (len(encoded[row.prompt]), row.prompt, row.index))
            for start in range(0, len(rows), self._batch_size):
                batch = rows[start : start + self._batch_size]
                for row in self._decode(batch, encoded, params):
                    completion = self._completion(row, params)
                    groups[row.prompt].append(completion)
                    if on_completion is not None:
                        on_completion(row.prompt, completion)
        finally:
            self._model.train(was_training)
        return [sorted(group, key=lambda completion: completion.index) for group in groups]

    def _decode(
        self, rows: list[_Row], encoded: Sequence[Sequence[int]], params: SamplingParams
    ) -> Iterator[_Row]:
        """Decode rows side by side, yielding each when it is finished."""
        cache, mask, logits = self._prefill(rows, encoded)
        draws = torch.as_tensor(np.stack([row.uniforms for row in rows]), device=mask.device)
        for step in range(params.max_new_tokens):
            tokens, logprobs = draw(
                logits,
                draws[:, step],
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
            )
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
                if row.finish_reason is None:
                    check_finite(logprob, step)
                    row.token_ids.append(token)
                    row.logprobs.append(logprob)
                    row.finish_reason = self._finished(row, params)
                    if row.finish_reason is not None:
                        yield row
            alive = [at for at, row in enumerate(rows) if row.finish_reason is None]
            if not alive:
                return
            if len(alive) < _COMPACT_BELOW * len(rows):
                keep = torch.tensor(alive, device=mask.device)
                cache.batch_select_indices(keep)
                mask, draws, tokens = mask[keep], draws[keep], tokens[keep]
                rows = [rows[at] for at in alive]
            positions = mask.sum(dim=-1, keepdim=True)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            logits = self._forward(tokens[:, None], mask, positions, cache)

    def _prefill(
        self, rows: Sequence[_Row], encoded: Sequence[Sequence[int]]
    ) -> tuple[Any, Tensor, Tensor]:
        """Compute each prompt of `rows` once, then share it out to its rows."""
        distinct = list(dict.fromkeys(row.prompt for row in rows))
        width = max(len(encoded[prompt]) for prompt in distinct)
        ids = torch.full((len(distinct), width), self._pad)
        mask = torch.zeros((len(distinct), width), dtype=torch.long)
        for at, prompt in enumerate(distinct):
            length = len(encoded[prompt])
            ids[at, width - length :] = torch.tensor(encoded[prompt])
            mask[at, width - length :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = DynamicCache(config=self._model.config)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        logits = self._forward(ids, mask, positions, cache)
        order = torch.tensor([distinct.index(row.prompt) for row in rows], device=mask.device)
        cache.batch_select_indices(order)
        return cache, mask[order], logits[order]

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Logits of the last position, [B, V]."""
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _finished(self, row: _Row, params: SamplingParams) -> FinishReason | None:
        if row.token_ids[-1] in self._eos:
            return "eos"
        if params.stop and cut_at_stop(self._tail(row, params.stop), params.stop) is not None:
            return "stop"
        return "length" if len(row.token_ids) == params.max_new_tokens else None

    def _tail(self, row: _Row, stop: Sequence[str]) -> str:
        """The end of the text, long enough to hold any stop string that ends in the last token.

        A token stands for at least one byte, a character for at most four.
        """
        reach = 4 * max(len(string) for string in stop) + 4
        return str(self._tokenizer.decode(row.token_ids[-reach:], skip_special_tokens=True))

    def _completion(self, row: _Row, params: SamplingParams) -> Completion:
        assert row.finish_reason is not None
        return Completion(
            token_ids=tuple(row.token_ids),
            text=completion_text(self._tokenizer, row.token_ids, row.finish_reason, params.stop),
            sampler_logprobs=tuple(row.logprobs),
            finish_reason=row.finish_reason,
            index=row.index,
        )


def _check_cache(model: PreTrainedModel) -> None:
    """Refuse models whose memory of the prompt cannot be shared out to its completions."""
    layers = DynamicCache(config=model.config).layers
    if model._is_stateful or not all(hasattr(x, "batch_select_indices") for x in layers):
        raise ConfigError(
            f"sampling.engine 'hf' cannot sample from a {type(model).__name__}: it has recurrent "
            "layers, whose state cannot be shared out like a key-value cache. Choose a model with "
            "attention in every layer, or another engine."
        )
