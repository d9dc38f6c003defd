"""The entropy of a policy and its gradient, exact, in chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from grpo_core.logprobs import (
    Distribution,
    chunked_logprobs_and_entropy,
    chunked_token_logprobs,
    token_logprobs,
    token_logprobs_and_entropy,
)
from grpo_core.training.dealing import pack
from grpo_core.training.packing import TrainingCompletion
from grpo_core.training.policy import (
    Layout,
    completion_logprobs,
    completion_logprobs_and_entropy,
    trainer_mode,
)
from tiny_model import tiny_model

seeds = st.integers(0, 2**32 - 1)
temperatures = st.sampled_from([0.5, 1.0, 1.7])


def example(
    seed: int, rows: int = 7, width: int = 5, vocabulary: int = 11, dtype: Any = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden [N, H], weight [V, H], bias [V], and token_ids [N]."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, width), (vocabulary, width), (vocabulary,))
    )
    return hidden, weight, bias, torch.randint(vocabulary, (rows,), generator=generator)


@given(seeds, temperatures, st.integers(1, 90))
def test_equals_torch_in_value_and_gradient(seed: int, temperature: float, size: int) -> None:
    hidden, weight, bias, token_ids = example(seed)
    logits = hidden @ weight.T + bias
    expected = Categorical(logits=logits / temperature).entropy()
    upstream = torch.linspace(-1, 2, len(hidden), dtype=torch.float64)
    inputs = [hidden, weight, bias]
    gradients = torch.autograd.grad(expected, inputs, upstream, retain_graph=True)
    for _, got in (
        token_logprobs_and_entropy(logits, token_ids, temperature),
        chunked_logprobs_and_entropy(
            hidden, weight, token_ids, bias=bias, temperature=temperature, chunk_logits=size
        ),
    ):
        assert_close(got, expected)
        assert_close(torch.autograd.grad(got, inputs, upstream), gradients)


@given(seeds, temperatures)
def test_logprobs_are_the_same_with_the_entropy_as_without(seed: int, temperature: float) -> None:
    hidden, weight, _, token_ids = example(seed)
    alone = chunked_token_logprobs(hidden, weight, token_ids, temperature=temperature)
    logprobs, _ = chunked_logprobs_and_entropy(hidden, weight, token_ids, temperature=temperature)
    assert_close(logprobs, alone, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(alone.sum(), [hidden, weight])
    assert_close(torch.autograd.grad(logprobs.sum(), [hidden, weight]), expected)
    logits = hidden @ weight.T
    plain, _ = token_logprobs_and_entropy(logits, token_ids, temperature)
    assert torch.equal(plain, token_logprobs(logits, token_ids, temperature))


@pytest.mark.parametrize("size", [1, 9, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_passes_gradcheck(size: int, temperature: float) -> None:
    hidden, weight, bias, token_ids = example(0, rows=4, width=3, vocabulary=5)

    def function(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return chunked_logprobs_and_entropy(
            h, w, token_ids, bias=b, temperature=temperature, chunk_logits=size
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_uniform_and_certain_distributions(dtype: torch.dtype) -> None:
    vocabulary = 49152
    hidden = torch.tensor([[0.0], [1.0]], dtype=dtype, requires_grad=True)
    weight = torch.zeros(vocabulary, 1, dtype=dtype)
    weight[7] = 1e4
    token_ids = torch.tensor([7, 7])
    for _, entropy in (
        chunked_logprobs_and_entropy(hidden, weight, token_ids),
        token_logprobs_and_entropy(hidden @ weight.T, token_ids),
    ):
        assert entropy.dtype == torch.float32
        assert entropy.tolist() == pytest.approx([math.log(vocabulary), 0.0], rel=1e-6)
        (gradient,) = torch.autograd.grad(entropy.sum(), [hidden])
        assert gradient.isfinite().all()


@given(seeds, st.floats(-1e4, 1e4))
def test_a_shift_of_all_logits_changes_nothing(seed: int, shift: float) -> None:
    hidden, weight, _, token_ids = example(seed)
    bias = torch.full((11,), shift, dtype=torch.float64)
    _, shifted = chunked_logprobs_and_entropy(hidden, weight, token_ids, bias=bias)
    assert_close(shifted, chunked_logprobs_and_entropy(hidden, weight, token_ids)[1])


@given(seeds, st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_size_of_chunks_changes_nothing_in_training_precision(
    seed: int, dtype: torch.dtype
) -> None:
    hidden, weight, bias, token_ids = example(seed, rows=33, vocabulary=40, dtype=dtype)
    results = []
    for size in (1, 300, 10_000):
        logprobs, entropy = chunked_logprobs_and_entropy(
            hidden, weight, token_ids, bias=bias, chunk_logits=size
        )
        total = (logprobs + 0.5 * entropy).sum()
        results.append((logprobs, entropy, *torch.autograd.grad(total, [hidden, weight, bias])))
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for other in results[1:]:
        assert_close(other, results[0], rtol=tolerance, atol=tolerance)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple) else (result,):
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.numel())
        return result


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_no_pass_ever_holds_all_logits(top_p: float) -> None:
    rows, vocabulary, size = 64, 100, 800
    hidden, weight, bias, token_ids = example(2, rows=rows, vocabulary=vocabulary)
    with LargestTensor() as seen:
        logprobs, entropy = chunked_logprobs_and_entropy(
            hidden, weight, token_ids, bias=bias, top_p=top_p, chunk_logits=size
        )
        (logprobs + entropy).sum().backward()
    assert 0 < seen.elements <= size


def test_rows_without_gradient_are_not_recomputed_and_cannot_spoil_the_rest() -> None:
    """Each of rows 0 and 1 has one of the two gradients, row 2 has none."""
    hidden, weight, _, token_ids = example(4)
    upstream = torch.ones(2, len(hidden), dtype=torch.float64)
    upstream[0, 0] = upstream[1, 1] = 0
    upstream[:, 2] = 0

    def gradients(hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores = chunked_logprobs_and_entropy(hidden, weight, token_ids, chunk_logits=3)
        return torch.autograd.grad(scores, [hidden, weight], list(upstream))

    expected = gradients(hidden)
    spoilt = hidden.detach().clone()
    spoilt[2] = math.nan
    assert_close(gradients(spoilt.requires_grad_()), expected)
    assert (expected[0].abs().sum(-1) > 0).tolist() == [True, True, False, True, True, True, True]


def test_no_rows_are_legal() -> None:
    hidden, weight, _, token_ids = example(6, rows=0)
    logprobs, entropy = chunked_logprobs_and_entropy(hidden, weight, token_ids, top_p=0.5)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert weight.grad is not None
    assert (weight.grad == 0).all()


@pytest.mark.parametrize("plain_head", [True, False])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_completions_of_a_model(plain_head: bool, share_prompts: bool) -> None:
    model = tiny_model().eval()
    prompt, answers = [5, 6, 7], [[8, 9, 10, 11], [12, 13]]
    members = [
        TrainingCompletion(prompt, ids, 0.0, [0.0] * len(ids), place=at)
        for at, ids in enumerate(answers)
    ]
    (batch,) = pack(members, 10_000, share_prompts=share_prompts)
    layout = Layout(share_prompts=share_prompts, plain_head=plain_head)
    distribution = Distribution(temperature=0.8, top_p=0.9, top_k=40)
    with trainer_mode(model, layout):
        logprobs, entropies = completion_logprobs_and_entropy(model, batch, layout, distribution)
        alone = completion_logprobs(model, batch, layout, distribution)
    assert logprobs.shape == entropies.shape == batch.completion_mask.shape
    for values in (logprobs, entropies):
        assert values.requires_grad
        assert (values[~batch.completion_mask] == 0).all()
    assert_close(alone, logprobs)
    for at, row, entropy in zip(batch.places.tolist(), logprobs, entropies, strict=True):
        ids = answers[at]
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = token_logprobs_and_entropy(logits, torch.tensor(ids), 0.8, top_p=0.9, top_k=40)
        assert_close(row[: len(ids)], expected[0], rtol=1e-4, atol=1e-4)
        assert_close(entropy[: len(ids)], expected[1], rtol=1e-4, atol=1e-4)
