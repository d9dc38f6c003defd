"""The embedded engine on tiny random models."""

from __future__ import annotations

import pytest
import torch

from grpo_core.config import SamplingConfig
from grpo_core.errors import ConfigError, SamplingError
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler, create_sampler
from grpo_core.types import Completion, Prompt
from tiny_model import tiny_model, tiny_tokenizer

PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["a", "what is 2 + 2?", "tell me more about it"])
]


def sampler(family: str = "llama", batch_size: int = 64, **changes: object) -> HfSampler:
    model = tiny_model(family, **changes)
    config = SamplingConfig(batch_size=batch_size)
    return create_sampler(SamplerContext(model, tiny_tokenizer(), "", config))


def ids(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[tuple(completion.token_ids) for completion in group] for group in groups]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.6}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.9}]
)
def test_logprobs_are_exact_under_the_sampling_distribution(family: str, settings: dict) -> None:
    engine = sampler(family)
    params = SamplingParams(max_new_tokens=12, seed=3, **settings)
    for prompt, group in zip(PROMPTS, engine.sample(PROMPTS, 3, params), strict=True):
        for completion in group:
            sequence = [*engine.encode(prompt), *completion.token_ids]
            with torch.no_grad():
                logits = engine._model(input_ids=torch.tensor([sequence])).logits[0].double()
            scaled = logits[-len(completion.token_ids) - 1 : -1] / params.temperature
            for position, (token, logprob) in enumerate(
                zip(completion.token_ids, completion.sampler_logprobs, strict=True)
            ):
                p = scaled[position].softmax(-1)
                kept = _kept(p, params)
                assert kept[token]
                assert logprob == pytest.approx((p[token] / p[kept].sum()).log().item(), abs=1e-3)


def _kept(p: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    order = p.argsort(descending=True)
    kept = torch.ones_like(p, dtype=torch.bool)
    if params.top_k:
        kept[order[params.top_k :]] = False
    if params.top_p < 1:
        ranked = torch.where(kept, p, 0)[order] / p[kept].sum()
        kept[order[(ranked.cumsum(0) - ranked) >= params.top_p]] = False
    return kept


def test_a_completion_does_not_depend_on_its_batch() -> None:
    params = SamplingParams(max_new_tokens=10, seed=5)
    together = ids(sampler(batch_size=64).sample(PROMPTS, 5, params))
    apart = ids(sampler(batch_size=2).sample(PROMPTS, 5, params))
    alone = [ids(sampler().sample([prompt], 5, params))[0] for prompt in PROMPTS]
    fewer = ids(sampler().sample(PROMPTS, 2, params))
    assert together == apart == alone
    assert fewer == [group[:2] for group in together]


def test_seeds_prompts_and_indices_decide_the_draw() -> None:
    engine = sampler()
    params = SamplingParams(max_new_tokens=10, seed=1)
    first = ids(engine.sample(PROMPTS[:1], 4, params))[0]
    assert ids(engine.sample(PROMPTS[:1], 4, params))[0] == first
    assert len(set(first)) == 4
    other = ids(engine.sample(PROMPTS[:1], 4, SamplingParams(max_new_tokens=10, seed=2)))[0]
    assert not set(first) & set(other)


def test_a_prompt_that_comes_twice_gets_new_completions() -> None:
    """As it does in a step that spans two epochs, or of more prompts than there are."""
    params = SamplingParams(max_new_tokens=10, seed=1)
    engine = sampler()
    first, _, again = ids(engine.sample([PROMPTS[0], PROMPTS[1], PROMPTS[0]], 4, params))
    assert first == ids(engine.sample(PROMPTS[:1], 4, params))[0]
    assert len({*first, *again}) == 8
    assert first + again == ids(engine.sample(PROMPTS[:1], 8, params))[0]


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_broken_weights_are_no_wrong_answers(temperature: float) -> None:
    engine = sampler()
    with torch.no_grad():
        engine._model.lm_head.weight[5, 3] = float("nan")
    with pytest.raises(SamplingError, match="not finite at token 1"):
        engine.sample(PROMPTS, 2, SamplingParams(max_new_tokens=4, temperature=temperature))


@pytest.mark.parametrize("family", ["lfm2", "mamba"])
def test_recurrent_models_are_refused(family: str) -> None:
    with pytest.raises(ConfigError, match="recurrent layers"):
        sampler(family)


def test_a_model_without_fused_attention_is_sampled_from() -> None:
    (group,) = sampler("gpt_oss").sample(PROMPTS[:1], 2, SamplingParams(max_new_tokens=12))
    assert len(group) == 2


def test_finish_reasons_and_texts() -> None:
    engine = sampler()
    params = SamplingParams(max_new_tokens=40, seed=0)
    found = [c for group in engine.sample(PROMPTS, 20, params) for c in group]
    reasons = {completion.finish_reason for completion in found}
    assert reasons == {"eos", "length"}
    for completion in found:
        assert len(completion.token_ids) == len(completion.sampler_logprobs)
        if completion.finish_reason == "eos":
            assert completion.token_ids[-1] == 0
            assert 0 not in completion.token_ids[:-1]
        else:
            assert len(completion.token_ids) == 40 and completion.is_truncated
        assert "<|end|>" not in completion.text


def test_every_token_of_the_eos_set_ends_a_completion() -> None:
    model = tiny_model()
    model.generation_config.eos_token_id = [0, 77, 78, 79, 80, 81, 82]
    engine = create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig()))
    params = SamplingParams(max_new_tokens=60, seed=0)
    found = [c for group in engine.sample(PROMPTS, 20, params) for c in group]
    ends = {c.token_ids[-1] for c in found if c.finish_reason == "eos"}
    assert ends & {77, 78, 79, 80, 81, 82}
    assert not any({0, 77, 78, 79, 80, 81, 82} & set(c.token_ids[:-1]) for c in found)


def test_stop_strings_end_a_completion_and_leave_its_text() -> None:
    engine = sampler()
    free = engine.sample(PROMPTS, 10, SamplingParams(max_new_tokens=30, seed=0))
    texts = [c.text for group in free for c in group]
    stop = next(letter for text in texts for letter in text[3:] if letter.isascii())
    stopped = engine.sample(PROMPTS, 10, SamplingParams(max_new_tokens=30, seed=0, stop=(stop,)))
    for before, after in zip(
        [c for g in free for c in g], [c for g in stopped for c in g], strict=True
    ):
        if stop in before.text:
            assert after.finish_reason == "stop"
            assert after.text == before.text.split(stop)[0]
            assert list(before.token_ids[: len(after.token_ids)]) == list(after.token_ids)
        else:
            assert (after.token_ids, after.text) == (before.token_ids, before.text)
            # Rows that stopped have left the batch, which rounds its products differently.
            assert after.sampler_logprobs == pytest.approx(before.sampler_logprobs, abs=1e-3)


def test_greedy_takes_the_likeliest_token() -> None:
    engine = sampler()
    (group,) = engine.sample(PROMPTS[1:2], 2, SamplingParams(max_new_tokens=6, temperature=0))
    assert group[0].token_ids == group[1].token_ids
    sequence = list(engine.encode(PROMPTS[1]))
    for token in group[0].token_ids:
        with torch.no_grad():
            logits = engine._model(input_ids=torch.tensor([sequence])).logits[0, -1]
        assert token == int(logits.argmax())
        sequence.append(token)
    assert set(group[0].sampler_logprobs) == {0.0}


def test_completions_are_handed_over_as_they_finish() -> None:
    engine = sampler(batch_size=4)
    seen: list[tuple[int, int]] = []
    groups = engine.sample(
        PROMPTS,
        3,
        SamplingParams(max_new_tokens=20, seed=0),
        lambda at, completion: seen.append((at, completion.index)),
    )
    assert sorted(seen) == [(at, index) for at in range(3) for index in range(3)]
    assert [[c.index for c in group] for group in groups] == [[0, 1, 2]] * 3


def test_sampling_leaves_the_model_as_it_was() -> None:
    engine = sampler()
    model = engine._model.train()
    model.set_attn_implementation("eager")
    engine.sample(PROMPTS, 2, SamplingParams(max_new_tokens=3))
    assert model.training
    assert model.config._attn_implementation == "eager"
