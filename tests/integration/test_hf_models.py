"""The embedded engine draws what each model draws alone, whatever is in the batch."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from adapted_models import adapted
from grpo_core.models.adapters import adapters_off
from grpo_core.protocols import SamplingParams
from grpo_core.sampling.hf.sampler import describe_engine
from plain_sampling import PROMPTS, check, engine
from tiny_model import tiny_model

DECODING, OWN = "a forward pass made for decoding", "the model's own forward pass"


def build(name: str) -> PreTrainedModel:
    family, _, variant = name.partition(" ")
    if variant == "lora":
        return adapted(family)
    if variant == "biases":
        return with_biases(tiny_model(family, attention_bias=True, mlp_bias=True))
    changes = {"window": {"sliding_window": 8}, "caps": {}, "gelu": {"hidden_act": "gelu"}}
    model = tiny_model(family, tied=variant != "untied", **changes.get(variant, {}))
    if variant == "caps":
        model.set_attn_implementation("eager")  # as `load_model` does: sdpa leaves the cap out
    return model


@torch.no_grad()
def with_biases(model: PreTrainedModel) -> PreTrainedModel:
    """Biases start at zero, where one that is left out would not be missed."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.5)
    return model


PLAIN = ["llama", "llama untied", "llama biases", "llama gelu", "llama lora", "qwen2", "qwen2 lora"]
PLAIN += ["qwen3", "qwen3 untied", "mistral"]
OTHERS = ["mistral window", "gpt2", "gpt2 lora", "gemma2 caps", "gemma3", "gpt_neo", "bloom", "opt"]
OTHERS += ["gpt_oss", "phimoe"]


@pytest.mark.parametrize("batch_size", [1, 3, 128])
@pytest.mark.parametrize("name", PLAIN + OTHERS)
def test_every_model_draws_what_it_draws_alone(
    name: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    assert describe_engine(model).startswith(DECODING if name in PLAIN else OWN)
    sampler = engine(with_biases(model) if "qwen2" in name else model, batch_size)
    params = SamplingParams(max_new_tokens=20, seed=1)
    for shortest in (0, 10**9):  # prompts apart from the rows, and in them
        monkeypatch.setattr("grpo_core.sampling.hf.sampler._PROMPT_TOKENS", shortest)
        check(sampler, PROMPTS, sampler.sample(PROMPTS, 4, params), params)


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 7, "top_p": 0.8}])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_every_distribution_is_drawn_from(name: str, settings: dict) -> None:
    sampler = engine(build(name), 4)
    params = SamplingParams(max_new_tokens=10, seed=1, **settings)
    check(sampler, PROMPTS, sampler.sample(PROMPTS, 4, params), params)


def test_a_model_without_its_adapters_is_sampled_from() -> None:
    model = adapted("llama")
    params = SamplingParams(max_new_tokens=10, seed=1)
    sampler = engine(model)
    with_them = sampler.sample(PROMPTS, 3, params)
    with adapters_off(model):
        without = sampler.sample(PROMPTS, 3, params)
        check(sampler, PROMPTS, without, params)
    assert [c.token_ids for g in with_them for c in g] != [c.token_ids for g in without for c in g]


def test_adapters_that_are_more_than_low_rank_are_left_to_the_model() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    model = tiny_model()
    inject_adapter_in_model(LoraConfig(use_dora=True, target_modules=["q_proj"]), model)
    assert describe_engine(model) == OWN
    sampler = engine(model)
    params = SamplingParams(max_new_tokens=8, seed=1)
    check(sampler, PROMPTS, sampler.sample(PROMPTS, 3, params), params)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_longest_row_are_left_to_the_model(rope_type: str) -> None:
    model = tiny_model()
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_type": rope_type}
    assert describe_engine(model) == OWN


def test_bfloat16_rounds_no_worse_than_the_model_itself() -> None:
    model = tiny_model()
    params = SamplingParams(max_new_tokens=30, seed=1)
    sampler = engine(model.to(torch.bfloat16))
    groups = sampler.sample(PROMPTS, 8, params)
    errors: dict[str, list[float]] = {"ours": [], "own": []}
    exact = tiny_model().to(torch.bfloat16).double()
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for completion in group:
            ids = torch.tensor([[*sampler.encode(prompt), *completion.token_ids]])
            places = slice(-len(completion.token_ids) - 1, -1)
            targets = ids[0, -len(completion.token_ids) :, None]
            with torch.no_grad():
                true, own = (
                    m(input_ids=ids).logits[0, places].double().log_softmax(-1).gather(-1, targets)
                    for m in (exact, model)
                )
            ours = torch.tensor(completion.sampler_logprobs)[:, None]
            errors["ours"] += (ours - true).abs().flatten().tolist()
            errors["own"] += (own - true).abs().flatten().tolist()
    assert sum(errors["ours"]) < 1.2 * sum(errors["own"])
