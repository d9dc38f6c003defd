"""What is packed together gets the log-probabilities and gradients it would get alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from adapted_models import adapted
from grpo_core.logprobs import Distribution
from grpo_core.training.dealing import pack
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import Layout, completion_logprobs, find_layout, trainer_mode
from tiny_model import tiny_model

FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gpt2"]
LAYOUTS = [
    Layout(share_prompts=True, plain_head=True, fused=True),
    Layout(share_prompts=True, plain_head=True),
    Layout(share_prompts=False, plain_head=True),
]
tokens = st.integers(0, 200)
ids = st.lists(tokens, min_size=1, max_size=9)


@st.composite
def groups(draw: st.DrawFn) -> list[TrainingCompletion]:
    """Prompts with completions of mixed lengths, one-token prompts and completions included."""
    prompts = draw(st.lists(ids, min_size=1, max_size=3, unique_by=tuple))
    return [
        TrainingCompletion(prompt, completion, 1.0, [0.0] * len(completion))
        for prompt in prompts
        for completion in draw(st.lists(ids, min_size=1, max_size=4))
    ]


def alone(model: PreTrainedModel, item: TrainingCompletion, temperature: float) -> Tensor:
    """The plain way: one sequence, no mask, full logits."""
    sequence = torch.tensor([[*item.prompt_ids, *item.token_ids]])
    logits = model(input_ids=sequence, use_cache=False).logits[0, :-1] / temperature
    logprobs = logits.log_softmax(-1).gather(-1, sequence[0, 1:, None]).squeeze(-1)
    return logprobs[len(item.prompt_ids) - 1 :]


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.describe)
def test_packed_equals_alone(family: str, tied: bool, layout: Layout) -> None:
    model = tiny_model(family, tied=tied).double()
    # transformers makes pad tokens blind in the embedding's gradient; here token 0 is an ordinary
    # word of prompts and completions, and is trained as one.
    model.get_input_embeddings().padding_idx = None
    # transformers' norms compute in float32 even here, ours do not; so does its plain attention.
    exact = 1e-9 if layout.share_prompts and not layout.fused else 1e-6

    @settings(max_examples=5)
    @given(groups(), st.integers(1, 80), st.sampled_from([1.0, 0.7]))
    def check(completions: list[TrainingCompletion], max_tokens: int, temperature: float) -> None:
        expected = 0.0
        plain = {}
        for item in completions:
            logprobs = alone(model, item, temperature)
            plain[id(item)] = logprobs.detach()
            expected = expected + (logprobs * torch.arange(1.0, 1 + len(logprobs))).sum()
        expected.backward()
        wanted = gradients(model)

        total = 0.0
        seen: list[tuple[float, ...]] = []
        for batch in pack(completions, max_tokens, share_prompts=layout.share_prompts):
            with trainer_mode(model, layout):
                logprobs = completion_logprobs(model, batch, layout, Distribution(temperature))
            weights = torch.arange(1.0, 1 + logprobs.shape[1], dtype=torch.float64)
            (logprobs * weights).sum().backward()
            total += (logprobs * weights).sum().item()
            rows = zip(logprobs.detach(), batch.completion_mask, strict=True)
            seen.extend(tuple(row[mask].tolist()) for row, mask in rows)
        got = gradients(model)

        assert total == pytest.approx(expected.item(), abs=10 * exact)
        assert len(seen) == len(completions)
        for row in plain.values():
            assert any(
                len(row) == len(s) and row.tolist() == pytest.approx(s, abs=exact) for s in seen
            )
        for name, gradient in wanted.items():
            # Norms of Llama and Qwen compute in float32 even here; GPT-2's error is near 1e-15.
            assert (got[name] - gradient).norm() <= 2e-5 * max(1.0, float(gradient.norm()))

    check()


@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.describe)
def test_a_pad_token_that_ends_sequences_has_the_gradient_it_has_alone(layout: Layout) -> None:
    """As an output it is trained; as an input transformers leaves it out, and so do we."""
    model = tiny_model(tied=False).double()
    pad = model.get_input_embeddings().padding_idx
    assert pad == model.config.eos_token_id == 0
    items = [
        TrainingCompletion([5, pad, 6], ids, 1.0, [0.0] * 3) for ids in ([7, 8, pad], [pad] * 3)
    ]
    sum(alone(model, item, 1.0).sum() for item in items).backward()
    wanted = gradients(model)
    for batch in pack(items, 100, share_prompts=layout.share_prompts):
        with trainer_mode(model, layout):
            completion_logprobs(model, batch, layout, Distribution()).sum().backward()
    got = gradients(model)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6)
    assert not got["model.embed_tokens.weight"][pad].any()
    assert got["lm_head.weight"][pad].any()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=Layout.describe)
def test_adapters_are_packed_as_well(family: str, layout: Layout) -> None:
    pytest.importorskip("peft")
    model = adapted(family).double()
    prompts = ([5, 6, 7], [8])
    items = [
        TrainingCompletion(prompt, ids, 1.0, [0.0] * len(ids))
        for prompt in prompts
        for ids in ([9, 10, 11, 12], [13], [14, 15])
    ]
    sum(alone(model, item, 0.7).sum() for item in items).backward()
    wanted = gradients(model)
    assert wanted and all("lora" in name for name in wanted)
    for batch in pack(items, 20, share_prompts=layout.share_prompts):
        with trainer_mode(model, layout):
            completion_logprobs(model, batch, layout, Distribution(0.7)).sum().backward()
    got = gradients(model)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-5, atol=1e-6)


@given(groups(), st.integers(1, 200))
def test_every_token_is_predicted_once(
    completions: list[TrainingCompletion], max_tokens: int
) -> None:
    found = []
    for batch in pack(completions, max_tokens):
        assert batch.input_ids.numel() <= max_tokens or len(batch.completion_mask) == 1
        flat = batch.input_ids.flatten()
        for row in range(len(batch.completion_mask)):
            mine = batch.rows == row
            targets, sources = batch.targets[mine].tolist(), batch.sources[mine].tolist()
            # The position after each source but the last holds the token it predicts.
            assert [int(flat[s]) for s in sources[1:]] == targets[:-1]
            found.append(tuple(targets))
    assert sorted(found) == sorted(tuple(item.token_ids) for item in completions)


@given(groups())
def test_sharing_computes_a_prompt_once(completions: list[TrainingCompletion]) -> None:
    (shared,) = pack(completions, 10**6)
    prompts = {tuple(item.prompt_ids) for item in completions}
    expected = sum(map(len, prompts)) + sum(len(item.token_ids) for item in completions)
    assert int((shared.segments >= 0).sum()) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_of_plain_families(family: str) -> None:
    fused = family != "gpt2"
    assert find_layout(tiny_model(family)) == replace(LAYOUTS[0], fused=fused)


@pytest.mark.parametrize("changes", [{"sliding_window": 4096}, {"attention_chunk_size": 8192}])
def test_layout_shares_no_prompts_within_a_window(changes: dict[str, int]) -> None:
    """The few tokens of the probe do not fill it, so only the config can tell."""
    model = tiny_model("llama", **changes)
    assert find_layout(model) == Layout(share_prompts=False, plain_head=True)
    assert not find_layout(tiny_model("gpt_neo")).share_prompts  # a window of 40


def test_layout_of_layers_that_differ() -> None:
    assert find_layout(tiny_model("qwen2", layer_types=["full_attention"] * 2)).share_prompts
    assert not find_layout(tiny_model("lfm2")).share_prompts  # a convolution along the row


def test_layout_of_a_model_that_takes_no_free_mask() -> None:
    """Bloom's position bias is made from the plain mask; it raises at any other."""
    assert find_layout(tiny_model("bloom")) == Layout(share_prompts=False, plain_head=True)


def test_layout_sees_a_head_that_is_more_than_a_product() -> None:
    model = tiny_model()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.tanh())
    assert not find_layout(model).plain_head


def test_layout_sees_a_model_that_ignores_the_mask() -> None:
    model = tiny_model()
    forward = model.base_model.forward
    model.base_model.forward = lambda **inputs: forward(**{**inputs, "packed_tiles": ()})
    assert not find_layout(model).share_prompts
