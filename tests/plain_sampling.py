"""The embedded engine's oracle: every completion computed alone, without a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from grpo_core.config import SamplingConfig
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import SamplerContext, first_draws, uniforms
from grpo_core.sampling.distribution import draw
from grpo_core.sampling.hf import HfSampler
from grpo_core.types import Completion, Prompt
from tiny_model import tiny_tokenizer

TEXTS = ["z", "what is 2 + 2?", "tell me more about it, and be quick", "ab", "how many legs?"]
PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None) for n, text in enumerate(TEXTS)
]

_ROUNDING = 1e-5  # a uniform number this close to the border of two tokens may draw either


def engine(model: PreTrainedModel, batch_size: int = 128) -> HfSampler:
    """A sampler that takes prompts as they are, so that one may be a single token."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return HfSampler(SamplerContext(model, tokenizer, "", SamplingConfig(batch_size=batch_size)))


@torch.no_grad()
def check(
    sampler: HfSampler,
    prompts: Sequence[Prompt],
    groups: Sequence[Sequence[Completion]],
    params: SamplingParams,
    tolerance: float = 1e-4,
) -> None:
    """Assert that every token is the one its uniform number draws, with its log-probability."""
    first = first_draws(prompts, len(groups[0]))
    for at, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        assert [completion.index for completion in group] == list(range(len(group)))
        for completion in group:
            length = len(completion.token_ids)
            ids = [*sampler.encode(prompt), *completion.token_ids]
            logits = sampler._model(input_ids=torch.tensor([ids])).logits[0]
            numbers = uniforms(params.seed, prompt.id, first[at] + completion.index, length)
            drawn = [
                draw(
                    logits[-length - 1 : -1],
                    torch.as_tensor(numbers + shift).clamp(0, 1 - 2**-53),
                    temperature=params.temperature,
                    top_p=params.top_p,
                    top_k=params.top_k,
                )
                for shift in (0, -_ROUNDING, _ROUNDING)
            ]
            matches = [tokens == torch.tensor(completion.token_ids) for tokens, _ in drawn]
            assert torch.stack(matches).any(0).all()
            found = torch.tensor(completion.sampler_logprobs)
            for (_, logprobs), match in zip(drawn, matches, strict=True):
                assert ((found - logprobs).abs()[match] < tolerance).all()
            assert not set(completion.token_ids[:-1]) & sampler._eos
            ended = completion.token_ids[-1] in sampler._eos
            assert ended == (completion.finish_reason == "eos")
