"""Draws follow the distribution they claim, and their log-probabilities are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.sampling.base import derive_seed, uniforms
from grpo_core.sampling.distribution import draw

vocabularies = st.sampled_from([1, 2, 7, 511, 512, 513, 1500])
settings_ = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.3, 1.0, 2.0]),
        "top_p": st.sampled_from([1.0, 0.9, 0.3, 0.01]),
        "top_k": st.sampled_from([0, 1, 3, 50]),
    }
)


def oracle(logits: np.ndarray, temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """The distribution in plain float64 numpy."""
    scaled = logits.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    keep = np.ones(len(p), bool)
    if top_k:
        keep[order[top_k:]] = False
    kept = np.where(keep, p, 0) / p[keep].sum()
    if top_p < 1:
        ranked = kept[order]
        keep[order[np.cumsum(ranked) - ranked >= top_p]] = False
    p = np.where(keep, p, 0)
    return p / p.sum()


@given(vocabularies, settings_, st.integers(0, 10**6))
def test_logprobs_are_those_of_the_distribution(size: int, settings: dict, seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(4, size)).astype(np.float32) * 3
    u = generator.random(4)
    tokens, logprobs = draw(torch.tensor(logits), torch.tensor(u), **settings)
    for row in range(4):
        expected = oracle(logits[row], **settings)
        assert expected[tokens[row]] > 0
        assert logprobs[row].item() == pytest.approx(np.log(expected[tokens[row]]), abs=2e-5)


@given(vocabularies, settings_, st.integers(0, 10**6))
def test_draw_is_the_inverse_transform(size: int, settings: dict, seed: int) -> None:
    """Equally spaced uniforms hit every token in proportion to its probability."""
    logits = np.random.default_rng(seed).normal(size=size).astype(np.float32) * 3
    count = 4000
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens, _ = draw(torch.tensor(logits).expand(count, -1), u, **settings)
    shares = np.bincount(tokens.numpy(), minlength=size) / count
    # A tie at a truncation boundary may be broken either way; random normals have none.
    assert np.abs(shares - oracle(logits, **settings)).max() < 2 / count


@given(st.floats(0, 1, exclude_max=True), vocabularies)
def test_extreme_logits_never_draw_the_impossible(u: float, size: int) -> None:
    logits = torch.full((1, size), -float("inf"))
    logits[0, size // 2] = 5.0
    tokens, logprobs = draw(logits, torch.tensor([u], dtype=torch.float64), temperature=1.0)
    assert tokens.item() == size // 2
    assert logprobs.item() == 0.0


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_the_ends_of_the_unit_interval(u: float) -> None:
    logits = torch.tensor([[-float("inf"), 0.0, 1.0, -float("inf")]])
    tokens, _ = draw(logits, torch.tensor([u], dtype=torch.float64), temperature=1.0)
    assert tokens.item() == (1 if u == 0 else 2)


def test_temperature_zero_is_certain() -> None:
    tokens, logprobs = draw(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.9]), temperature=0)
    assert tokens.tolist() == [1]
    assert logprobs.tolist() == [0.0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_give_no_probability(temperature: float, broken: float) -> None:
    logits = torch.tensor([[0.0, broken, 1.0], [0.0, 2.0, 1.0]])
    _, logprobs = draw(logits, torch.tensor([0.5, 0.5]), temperature=temperature)
    assert logprobs.isfinite().tolist() == [False, True]


def test_draw_leaves_the_logits_alone() -> None:
    logits = torch.randn(2, 9)
    before = logits.clone()
    draw(logits, torch.rand(2), temperature=0.5, top_p=0.5, top_k=3)
    assert torch.equal(logits, before)


@given(st.integers(0, 2**32), st.text(), st.integers(0, 100))
def test_uniforms_are_a_pure_function_of_their_key(seed: int, prompt: str, index: int) -> None:
    first = uniforms(seed, prompt, index, 8)
    assert np.array_equal(first, uniforms(seed, prompt, index, 8))
    assert np.array_equal(first[:3], uniforms(seed, prompt, index, 3))
    assert not np.array_equal(first, uniforms(seed, prompt, index + 1, 8))
    assert not np.array_equal(first, uniforms(seed + 1, prompt, index, 8))
    assert ((first >= 0) & (first < 1)).all()


def test_derived_seeds_differ_by_purpose() -> None:
    assert len({derive_seed(0, "a", 1), derive_seed(0, "b", 1), derive_seed(1, "a", 1)}) == 3
