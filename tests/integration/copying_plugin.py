"""A file plugin with an engine that has weights of its own, sent to it as to a server."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM

from grpo_core.hookspecs import hookimpl
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler
from grpo_core.sampling.vllm.frames import from_frames, to_frames
from grpo_core.sampling.vllm.weights import checkpoint_weights


class CopyingSampler(HfSampler):
    """Draws as the embedded engine does, with a model of its own."""

    def __init__(self, context: SamplerContext) -> None:
        shape = copy.deepcopy(context.model.config)
        own = AutoModelForCausalLM.from_config(shape, dtype=context.model.dtype).eval()
        super().__init__(SamplerContext(own, context.tokenizer, "", context.config))
        self._policy = context.model
        self.update_weights()

    def update_weights(self) -> None:
        sent = io.BytesIO(b"".join(to_frames(checkpoint_weights(self._policy).items())))
        found = self._model.load_state_dict(dict(from_frames(sent.read)), strict=False)
        assert set(found.missing_keys) <= {"lm_head.weight"}, found  # tied to the embedding
        assert not found.unexpected_keys, found

    @torch.inference_mode()
    def probe_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        found = []
        for sequence in sequences:
            ids = torch.tensor([list(sequence)])
            logprobs = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found


@hookimpl
def grpo_register_samplers(register):
    register("copying", CopyingSampler)
