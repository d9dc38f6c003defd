"""Adapters: what they compute, and what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from adapted_models import ALPHA, RANK, adapted, logits
from grpo_core.advantage import group_advantages
from grpo_core.config import LoraConfig, RunConfig, SamplingConfig
from grpo_core.errors import ConfigError
from grpo_core.losses.grpo import grpo_loss
from grpo_core.models.adapters import adapters_off, add_lora
from grpo_core.protocols import SamplingParams
from grpo_core.rollout import with_advantages
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.hf import create_sampler
from grpo_core.training.learner import Learner
from grpo_core.training.lora_checks import check_lora_layers
from grpo_core.training.policy import find_layout
from grpo_core.training.precision import MasterWeights
from grpo_core.training.recompute import recompute_activations
from grpo_core.training.reference import Reference
from grpo_core.training.update import update
from grpo_core.types import Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_model, tiny_tokenizer

PROMPTS = [Prompt(f"p{n}", [{"role": "user", "content": "tell me" * n}], None) for n in (1, 2, 3)]


def make_learner(model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> Learner:
    """Of a model that is its own reference; its steps are as large as the gradient."""
    values = {
        "sampling": {"max_new_tokens": 10},
        "grpo": {"beta": 0.3},
        "trainer": {"learning_rate": 1.0, "warmup_steps": 0, "max_grad_norm": 1e9},
    }
    config = build(RunConfig, values)
    layout = find_layout(model)
    masters = MasterWeights(model, dtype)
    optimizer = torch.optim.SGD(masters.parameters.values())
    return Learner(model, masters, optimizer, layout, grpo_loss, config, Reference(model))


def sampled_groups(model: PreTrainedModel) -> list[RolloutGroup]:
    """Completions of the model itself, every other one of which is right."""
    engine = create_sampler(SamplerContext(model, tiny_tokenizer(), "", SamplingConfig()))
    groups = engine.sample(PROMPTS, 4, SamplingParams(max_new_tokens=10, seed=1))
    verdicts = [Verdict.correct(), Verdict.wrong()]
    judged = [
        RolloutGroup(
            prompt,
            engine.encode(prompt),
            [Rollout(c, {"v": v}, {}, v.score) for c in group for v in [verdicts[c.index % 2]]],
        )
        for prompt, group in zip(PROMPTS, groups, strict=True)
    ]
    return with_advantages(judged, group_advantages)


def oracle_gradients(
    family: str, adapters: dict[str, Tensor], groups: list[RolloutGroup], changes: dict
) -> dict[str, Tensor]:
    """In float64, one completion at a time, through W + alpha / rank * B A written out."""
    model = tiny_model(family, **changes).double().requires_grad_(False)
    leaves = {name: value.double().requires_grad_() for name, value in adapters.items()}
    weights = dict(model.named_parameters())
    merged = {}
    for name, a in leaves.items():
        if ".lora_A." in name:
            path = name.split(".lora_A.")[0]
            product = leaves[name.replace("lora_A", "lora_B")] @ a
            product = product.T if family == "gpt2" else product  # its weights are transposed
            merged[f"{path}.weight"] = weights[f"{path}.weight"] + ALPHA / RANK * product

    def logprobs(substitutes: dict[str, Tensor], prompt: list[int], tokens: list[int]) -> Tensor:
        ids = torch.tensor([[*prompt, *tokens]])
        out = torch.func.functional_call(model, substitutes, (), {"input_ids": ids}).logits
        chosen = out[0, len(prompt) - 1 : -1].log_softmax(-1)
        return chosen.gather(-1, torch.tensor(tokens)[:, None])[:, 0]

    pairs = [(group, rollout) for group in groups for rollout in group.rollouts]
    total = torch.zeros((), dtype=torch.float64)
    for group, rollout in pairs:
        prompt, tokens = list(group.prompt_token_ids), list(rollout.completion.token_ids)
        policy, reference = logprobs(merged, prompt, tokens), logprobs({}, prompt, tokens)
        log_ratio = reference - policy
        ratio = (policy - policy.detach()).exp()
        loss = -rollout.advantage * ratio + 0.3 * (log_ratio.exp() - log_ratio - 1)
        total = total + loss.mean() / len(pairs)
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("family", "changes"), [("llama", {}), ("qwen2", {"tied": False}), ("gpt2", {})]
)
def test_gradients_are_those_of_the_product_written_out(
    family: str, changes: dict, recompute: bool
) -> None:
    model = adapted(family, **changes)
    groups = sampled_groups(model)
    learner = make_learner(model)
    assert learner.layout.share_prompts and learner.layout.plain_head
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    adapters = {name: before[name] for name in learner.masters.parameters}
    expected = oracle_gradients(family, adapters, groups, changes)
    if recompute:
        recompute_activations(model)
    result = update(learner, groups, step=1)

    assert result.metrics["sampler_logprob_gap"] < 1e-5  # adapters were on when it sampled
    assert result.metrics["kl"] > 0.01  # and off in the reference
    assert len(expected) == 2 * len(merged_layers(model))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            step = before[name] - parameter.detach()
            torch.testing.assert_close(step.double(), expected[name], rtol=2e-3, atol=2e-6)
            assert step.any(), name
        else:
            assert torch.equal(parameter, before[name]), name  # the base stays, to the bit


def merged_layers(model: PreTrainedModel) -> list[str]:
    return [name for name, _ in model.named_modules() if name.endswith(".base_layer")]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phimoe"])
def test_adapters_begin_as_the_model_itself(family: str) -> None:
    model, plain = adapted(family, moved=False), tiny_model(family)
    assert type(model) is type(plain)
    assert torch.equal(logits(model), logits(plain))
    result = update(make_learner(model), sampled_groups(model), step=1)
    assert result.metrics["kl"] == 0
    assert result.grad_norm > 0
    assert not torch.equal(logits(model), logits(plain))
    with adapters_off(model):
        assert torch.equal(logits(model), logits(plain))


def test_adapters_are_on_again_after_a_reference_that_failed() -> None:
    model = adapted()
    before = logits(model)
    computing = Reference(model).computing(find_layout(model))
    with pytest.raises(RuntimeError, match="out of memory"), computing:
        raise RuntimeError("out of memory")
    assert torch.equal(logits(model), before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all(".lora_" in name for name in trained)


def test_only_the_run_s_seed_decides_the_start() -> None:
    torch.manual_seed(1)
    one = adapted(moved=False, seed=3).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    same, other = adapted(moved=False, seed=3), adapted(moved=False, seed=4)
    model = tiny_model()  # draws from the global stream, as `adapted` did
    torch.set_rng_state(state)
    add_lora(model, LoraConfig(rank=RANK), 3, "")
    assert torch.equal(torch.get_rng_state(), state)
    name = "model.layers.1.mlp.up_proj.lora_A.default.weight"
    assert torch.equal(one[name], same.state_dict()[name])
    assert torch.equal(one[name], model.state_dict()[name])
    assert not torch.equal(one[name], other.state_dict()[name])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["q_prj"], r"Unknown layer 'q_prj'. Did you mean 'q_proj'\? Available: down_proj, gate"),
        (["q_proj", "lm_head"], r"'lm_head' stands for 'lm_head' \(Linear\).*output layer"),
        (["mlp"], r"'model.layers.0.mlp' \(LlamaMLP\), which gets no adapter"),
        ([], "is empty, so nothing would be trained"),
    ],
)
def test_names_that_stand_for_no_layer(tmp_path: Path, names: list[str], message: str) -> None:
    settings = {"rank": 2, "target_modules": names}
    with pytest.raises(ConfigError, match=message):
        add_lora(tiny_model(), build(LoraConfig, settings), 0, "")
    folder = save_tiny_model(tmp_path)
    (folder / "model.safetensors").unlink()  # it is known before the weights are read
    with pytest.raises(ConfigError, match=message):
        check_lora_layers(folder, build(RunConfig, {"lora": settings}))


def test_a_list_of_layers_and_how_much_there_is_to_train(tmp_path: Path) -> None:
    settings = build(LoraConfig, {"rank": 2, "target_modules": ["q_proj", "layers.1.mlp.up_proj"]})
    model = tiny_model()
    add_lora(model, settings, 0, "")
    assert merged_layers(model) == [
        "model.layers.0.self_attn.q_proj.base_layer",
        "model.layers.1.self_attn.q_proj.base_layer",
        "model.layers.1.mlp.up_proj.base_layer",
    ]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = check_lora_layers(save_tiny_model(tmp_path), RunConfig(lora=settings))
    assert text.startswith(f"3 layers get adapters of rank 2: {trained} weights are trained")


def test_a_model_that_peft_cannot_adapt() -> None:
    with pytest.raises(ConfigError, match=r"MambaForCausalLM cannot get adapters.*lora\.rank = 0"):
        add_lora(tiny_model("mamba"), LoraConfig(rank=2), 0, "")
