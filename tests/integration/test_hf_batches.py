"""Continuous batching: what is computed when, and that nothing else changes with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.errors import SamplingError
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.hf import schedule
from grpo_core.sampling.hf.memory import Memory
from grpo_core.sampling.hf.passes import Passes, Prefilled
from grpo_core.sampling.hf.sampler import open_passes
from grpo_core.sampling.hf.schedule import Batch, Row
from grpo_core.sampling.hf.stops import StopWatch
from grpo_core.types import Prompt
from plain_sampling import PROMPTS, check, engine
from tiny_model import tiny_model, tiny_tokenizer

MODELS = {name: tiny_model(name) for name in ("llama", "gpt2")}


class Recorded:
    """Passes of a model that are counted."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.prompts_apart = passes.prompts_apart
        self.prefilled: list[list[tuple[int, ...]]] = []
        self.steps: list[int] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Prefilled:
        self.prefilled.append([tuple(ids) for ids in prompts])
        return self.passes.prefill(prompts)

    def step(self, tokens: Sequence[int], positions: Sequence[int], memory: Memory) -> torch.Tensor:
        self.steps.append(len(tokens))
        return self.passes.step(tokens, positions, memory)


def decode(
    lengths: Sequence[int],
    group: int,
    size: int,
    family: str = "llama",
    max_new_tokens: int = 24,
    eos: frozenset[int] = frozenset({0, 7, 70, 80, 90}),
) -> tuple[Recorded, list[Row], list[int]]:
    """Decode `group` completions of prompts of some lengths; also what waited at each step."""
    rows = [
        Row(
            prompt=at,
            index=index,
            prompt_ids=tuple((17 * at + n) % 200 + 10 for n in range(length)),
            uniforms=np.random.default_rng([at, index]).random(max_new_tokens),
            stop_watch=StopWatch(tiny_tokenizer(), ()),
        )
        for at, length in enumerate(lengths)
        for index in range(group)
    ]
    passes = Recorded(open_passes(MODELS[family], 0, prompts_apart=group > 2))
    params = SamplingParams(max_new_tokens=max_new_tokens)
    batch = Batch(rows, passes, params, eos, size)
    finished: list[Row] = []
    waited: list[int] = []
    while not batch.is_done:
        steps = len(passes.steps)
        finished += batch.advance()
        waited += [len(batch._waiting)] * (len(passes.steps) - steps)
    assert len(finished) == len(rows)
    return passes, rows, waited


shapes = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@settings(max_examples=25)
@given(shapes, st.integers(1, 6), st.integers(1, 20), st.sampled_from(["llama", "gpt2"]))
def test_no_row_is_computed_in_vain(lengths: list[int], group: int, size: int, family: str) -> None:
    passes, rows, waited = decode(lengths, group, size, family)
    distinct = [ids for batch in passes.prefilled for ids in batch]
    assert sorted(distinct) == sorted({row.prompt_ids for row in rows})
    # The first token of each comes with its prompt, so each is stepped once less than it is long.
    assert sum(passes.steps) == sum(len(row.token_ids) - 1 for row in rows)
    width = min(size, len(rows))
    for live, waiting in zip(passes.steps, waited, strict=True):
        assert live <= width
        if waiting:  # rows may have finished at their first token, after the others had joined
            assert live > 0 or width < 8
    if len(rows) <= size:
        assert len(passes.steps) == max(len(row.token_ids) for row in rows) - 1


def test_waiting_rows_take_the_places_of_finished_ones() -> None:
    passes, rows, waited = decode([9, 5, 30], 40, 16)
    assert len(rows) == 120
    full = [live for live, waiting in zip(passes.steps, waited, strict=True) if waiting]
    assert min(full) > 16 - 2 - 4  # at most an eighth is free, save rows that ended at once
    ideal = sum(passes.steps) / 16
    assert len(passes.steps) < 1.35 * ideal + 24


@settings(max_examples=8)
@given(shapes, st.integers(1, 6), st.data())
def test_neither_batch_nor_order_changes_a_completion(
    lengths: list[int], group: int, data: st.DataObject
) -> None:
    _, alone, _ = decode(lengths, group, 1)
    _, together, _ = decode(lengths, group, data.draw(st.integers(2, 40)))
    for one, other in zip(alone, together, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.finish_reason == other.finish_reason


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_prompts_computed_in_portions_are_the_same(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole, _ = decode([30, 9, 5, 30, 1], 3, 7)
    monkeypatch.setattr(schedule, "_PREFILL_TOKENS", tokens)
    passes, parts, _ = decode([30, 9, 5, 30, 1], 3, 7)
    assert [row.token_ids for row in whole] == [row.token_ids for row in parts]
    assert max(len(batch) * max(map(len, batch)) for batch in passes.prefilled) <= max(tokens, 30)


def test_one_token_needs_no_step() -> None:
    passes, rows, _ = decode([4, 2], 5, 100, max_new_tokens=1)
    assert passes.steps == []
    assert {len(row.token_ids) for row in rows} == {1}
    passes, rows, _ = decode([4, 2], 5, 100, eos=frozenset(range(300)))
    assert passes.steps == []
    assert {row.finish_reason for row in rows} == {"eos"}


def test_a_prompt_that_comes_twice_is_computed_once() -> None:
    model = MODELS["llama"]
    twice = [PROMPTS[1], PROMPTS[0], PROMPTS[1], Prompt("other id", PROMPTS[1].messages, None)]
    sampler = engine(model, 5)
    params = SamplingParams(max_new_tokens=9, seed=2)
    check(sampler, twice, sampler.sample(twice, 4, params), params)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_changed_in_place_are_seen(family: str) -> None:
    model = tiny_model(family)
    sampler = engine(model)
    params = SamplingParams(max_new_tokens=12, seed=1)
    before = sampler.sample(PROMPTS, 3, params)
    for parameter in model.parameters():
        parameter.data.mul_(0.8)
    after = sampler.sample(PROMPTS, 3, params)
    check(sampler, PROMPTS, after, params)
    assert [c.token_ids for g in before for c in g] != [c.token_ids for g in after for c in g]


def test_a_failure_leaves_sampler_and_model_usable() -> None:
    model = tiny_model().train()
    sampler = engine(model, 4)
    params = SamplingParams(max_new_tokens=12, seed=1)

    def fail(at: int, completion: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PROMPTS, 3, params, fail)
    assert model.training and not torch.is_inference_mode_enabled()
    kept = model.lm_head.weight[5, 3].item()
    model.lm_head.weight.data[5, 3] = float("nan")
    with pytest.raises(SamplingError, match="not finite at token 1"):
        sampler.sample(PROMPTS, 3, params)
    model.lm_head.weight.data[5, 3] = kept
    check(sampler, PROMPTS, sampler.sample(PROMPTS, 3, params), params)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_training_goes_on_after_sampling(family: str) -> None:
    model = tiny_model(family).train()
    sampler = engine(model)
    handed: list[bool] = []
    params = SamplingParams(max_new_tokens=4)
    sampler.sample(PROMPTS, 2, params, lambda *_: handed.append(torch.is_inference_mode_enabled()))
    assert len(handed) == 10 and not any(handed)
    model(input_ids=torch.tensor([[5, 6, 7]])).logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert not any(p.is_inference() for p in [*model.parameters(), *model.buffers()])


def test_no_prompts_give_no_groups() -> None:
    assert engine(MODELS["llama"]).sample([], 4, SamplingParams(max_new_tokens=4)) == []
