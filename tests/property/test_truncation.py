"""What stays under top_p and top_k, and log-probabilities under it, for sampler and trainer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ConfigError
from grpo_core.logprobs import (
    Distribution,
    chunked_logprobs_and_entropy,
    chunked_token_logprobs,
    token_logprobs,
    token_logprobs_and_entropy,
)
from grpo_core.sampling.distribution import draw
from grpo_core.truncation import find_border

seeds = st.integers(0, 2**32 - 1)
# Masses of few tokens seldom add up to just these; a sum that does may go either way by rounding.
top_ps = st.sampled_from([1.0, 0.953, 0.71, 0.37, 0.013])
top_ks = st.sampled_from([0, 1, 2, 5, 70])
temperatures = st.sampled_from([0.6, 1.0, 1.7])
distributions = st.builds(Distribution, temperatures, top_ps, top_ks)


def kept_oracle(logits: list[float], top_p: float, top_k: int) -> list[bool]:
    """The kept set in plain Python, ties and all."""
    order = sorted(logits, reverse=True)
    lowest = order[min(top_k, len(order)) - 1] if top_k else -math.inf
    allowed = [x for x in order if x >= lowest]
    if top_p < 1:
        masses = [math.exp(x - order[0]) for x in allowed]
        total, before = math.fsum(masses), 0.0
        for logit, mass in zip(allowed, masses, strict=True):
            if before >= top_p * total:
                break
            lowest, before = logit, before + mass
    return [x >= lowest for x in logits]


def kept(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted >= find_border(shifted, top_p, top_k)


@given(st.lists(st.integers(-12, 0), min_size=1, max_size=14), top_ps, top_ks)
def test_the_kept_set_is_that_of_plain_python_with_many_ties(
    halves: list[int], top_p: float, top_k: int
) -> None:
    logits = [half / 2 for half in halves]
    for dtype in (torch.float32, torch.float64):
        got = kept(torch.tensor(logits, dtype=dtype), top_p, top_k)
        assert got.tolist() == kept_oracle(logits, top_p, top_k)


@given(
    st.sampled_from([1, 63, 64, 65, 66, 511, 513, 3000]),
    st.sampled_from([0.01, 0.5, 3.0]),
    top_ps,
    st.sampled_from([0, 1, 63, 64, 65, 400]),
    seeds,
)
def test_the_kept_set_is_that_of_plain_python_where_it_is_large(
    size: int, spread: float, top_p: float, top_k: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, size, generator=generator, dtype=torch.float64) * spread
    expected = [kept_oracle(row, top_p, top_k) for row in logits.tolist()]
    assert kept(logits, top_p, top_k).tolist() == expected


@pytest.mark.parametrize(("top_p", "top_k"), [(0.01, 0), (1.0, 5), (0.5, 5), (0.999, 70)])
def test_ties_stay_together_however_many_they_are(top_p: float, top_k: int) -> None:
    logits = torch.full((3, 1000), -4.0)
    logits[:, 200:400] = 0.0
    logits[1, 300] = 0.25
    expected = [kept_oracle(row, top_p, top_k) for row in logits.tolist()]
    assert kept(logits, top_p, top_k).tolist() == expected


def test_the_nucleus_is_taken_of_what_top_k_leaves_even_where_its_ties_are_many() -> None:
    """One token at 0 against 200 at -2, all of them left by top_k: a mass of 1 against 27."""
    logits = torch.full((1, 1000), -9.0)
    logits[0, :200] = -2.0
    logits[0, 200] = 0.0
    ties = 200 * math.exp(-2)
    assert kept(logits, 0.9 / (1 + ties), 5).sum() == 1
    assert kept(logits, 1.1 / (1 + ties), 5).sum() == 201


@given(seeds, distributions)
def test_logits_with_other_rounding_are_divided_in_the_same_way(
    seed: int, distribution: Distribution
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 200, generator=generator, dtype=torch.float64) * 3
    logits[2:] = (logits[2:] * 4).round() / 4  # with ties
    logits -= logits.amax(-1, keepdim=True)
    border = find_border(logits, distribution.top_p, distribution.top_k)
    noise = torch.rand(logits.shape, generator=generator, dtype=torch.float64) - 0.5
    assert torch.equal(logits + 1e-9 * noise >= border, logits >= border)


@given(seeds, distributions, st.sampled_from([torch.float32, torch.bfloat16]))
def test_the_trainer_scores_what_the_sampler_drew_as_the_sampler_did(
    seed: int, distribution: Distribution, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(16, 300, generator=generator) * 3).to(dtype)
    settings = {"top_p": distribution.top_p, "top_k": distribution.top_k}
    temperature = distribution.temperature
    uniforms = torch.rand(16, generator=generator)
    tokens, logprobs = draw(logits, uniforms, temperature=temperature, **settings)
    assert_close(
        token_logprobs(logits, tokens, temperature, **settings), logprobs, rtol=0, atol=1e-5
    )


# ---- against a naive implementation --------------------------------------------------------------


def naive(
    logits: torch.Tensor, token_ids: torch.Tensor, distribution: Distribution
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N] and entropies [N], the kept set by plain Python."""
    scaled = logits / distribution.temperature
    rows = [
        kept_oracle(row, distribution.top_p, distribution.top_k) for row in scaled.detach().tolist()
    ]
    keep = torch.tensor(rows) | torch.nn.functional.one_hot(token_ids, logits.shape[-1]).bool()
    logprobs = scaled.masked_fill(~keep, -math.inf).log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs.masked_fill(~keep, 0)).sum(-1)
    return logprobs.gather(-1, token_ids[:, None]).squeeze(-1), entropies


def example(
    seed: int, rows: int = 7, width: int = 5, vocabulary: int = 11, dtype: Any = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden [N, H], weight [V, H], bias [V], and token_ids [N], some of them not kept."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((rows, width), (vocabulary, width), (vocabulary,))
    )
    return hidden, weight, bias, torch.randint(vocabulary, (rows,), generator=generator)


def arguments(distribution: Distribution) -> dict[str, Any]:
    return {
        "temperature": distribution.temperature,
        "top_p": distribution.top_p,
        "top_k": distribution.top_k,
    }


@given(seeds, distributions, st.integers(1, 90))
def test_values_and_gradients_are_those_of_the_naive_way(
    seed: int, distribution: Distribution, size: int
) -> None:
    hidden, weight, bias, token_ids = example(seed)
    settings = arguments(distribution)
    logits = hidden @ weight.T + bias
    upstream = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = naive(logits, token_ids, distribution)
    inputs = [hidden, weight, bias]
    plain = token_logprobs_and_entropy(logits, token_ids, **settings)
    chunked = chunked_logprobs_and_entropy(
        hidden, weight, token_ids, bias=bias, chunk_logits=size, **settings
    )
    gradients = torch.autograd.grad(expected, inputs, list(upstream), retain_graph=True)
    for got in (plain, chunked):
        assert_close(got, expected)
        assert_close(torch.autograd.grad(got, inputs, list(upstream), retain_graph=True), gradients)
    gradients = torch.autograd.grad(expected[0], inputs, upstream[0], retain_graph=True)
    alone = (
        token_logprobs(logits, token_ids, **settings),
        chunked_token_logprobs(hidden, weight, token_ids, bias=bias, chunk_logits=size, **settings),
    )
    for value in alone:
        assert_close(value, expected[0])
        assert_close(torch.autograd.grad(value, inputs, upstream[0], retain_graph=True), gradients)


def test_a_token_that_rounding_left_out_counts_as_kept() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    hidden, weight = torch.eye(1, dtype=torch.float64), logits.T.contiguous()
    total = math.exp(2) + math.exp(1) + math.exp(-1)  # the two of top_k, and the one drawn
    for value in (
        token_logprobs(logits, torch.tensor([3]), top_k=2),
        chunked_token_logprobs(hidden, weight, torch.tensor([3]), top_k=2),
    ):
        assert value.item() == pytest.approx(-1 - math.log(total))


def test_probabilities_of_the_kept_tokens_sum_to_one() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stays = kept(logits, 0.6, 20)
    tokens = stays.nonzero().squeeze(-1)
    rows = logits.expand(len(tokens), -1)
    total = token_logprobs(rows, tokens, top_p=0.6, top_k=20).exp().sum()
    assert 1 < len(tokens) < 20
    assert total.item() == pytest.approx(1)


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_p": 0.6}, {"top_k": 4, "top_p": 0.7}])
@pytest.mark.parametrize("size", [1, 5])
def test_passes_gradcheck(settings: dict[str, Any], size: int) -> None:
    hidden, weight, bias, token_ids = example(0, rows=4, width=3, vocabulary=6)

    def function(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return chunked_logprobs_and_entropy(
            h, w, token_ids, bias=b, temperature=0.7, chunk_logits=size, **settings
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@given(seeds, st.sampled_from([{"top_k": 2}, {"top_p": 0.6}]), st.integers(0, 32))
def test_rows_computed_again_in_other_chunks_find_the_same_set(
    seed: int, settings: dict[str, Any], without: int
) -> None:
    """Rows without a gradient shift the chunks of the backward pass against the forward ones."""
    hidden, weight, _, token_ids = example(seed, 33, 64, 40, dtype=torch.float32)
    upstream = torch.ones(33)
    upstream[:without] = 0
    results = []
    for size in (1, 8, 100):
        value, entropy = chunked_logprobs_and_entropy(
            hidden, weight, token_ids, chunk_logits=size, **settings
        )
        total = (upstream * (value + entropy)).sum()
        results.append((value, entropy, *torch.autograd.grad(total, [hidden, weight])))
    for other in results[1:]:
        assert_close(other, results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"top_k": 3}, {"top_p": 0.5}, {"top_k": 8}])
def test_banned_tokens_are_never_kept_and_spoil_nothing(settings: dict[str, Any]) -> None:
    hidden, weight, bias, token_ids = example(3)
    with torch.no_grad():
        bias[4:] = -math.inf
    token_ids = token_ids % 4
    inputs = [hidden, weight, bias]
    logits = hidden @ weight.T + bias
    results = []
    for value, entropy in (
        token_logprobs_and_entropy(logits, token_ids, **settings),
        chunked_logprobs_and_entropy(hidden, weight, token_ids, bias=bias, **settings),
    ):
        gradients = torch.autograd.grad((value + 3 * entropy).sum(), inputs)
        assert all(tensor.isfinite().all() for tensor in (value, entropy, *gradients))
        assert (gradients[2][4:] == 0).all()
        results.append((value, entropy, *gradients))
    assert_close(results[0], results[1])
    # as if they were not in the vocabulary
    fewer = token_logprobs_and_entropy(logits[:, :4], token_ids, **settings)
    assert_close((results[0][0], results[0][1]), fewer)


@pytest.mark.parametrize("settings", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.5}])
def test_logits_that_are_no_numbers_stay_so(settings: dict[str, Any]) -> None:
    logits = torch.tensor([[0.0, math.nan, 1.0, 2.0], [0.0, math.inf, 1.0, 3.0], [0.0] * 4])
    got = token_logprobs(logits, torch.tensor([0, 0, 0]), **settings)
    assert got.isfinite().tolist() == [False, False, True]
    uniforms = torch.full((3,), 0.5)
    _, logprobs = draw(logits, uniforms, temperature=1.0, **settings)
    assert logprobs.isfinite().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0\.0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1\.5"),
        ({"top_p": math.nan}, r"top_p must be in \(0, 1\], got nan"),
        ({"top_k": -1}, "top_k must be >= 0, got -1"),
        ({"temperature": 0.0}, "temperature must be > 0 and finite, got 0"),
    ],
)
def test_distributions_that_do_not_exist_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    hidden, weight, _, token_ids = example(7)
    for call in (
        lambda: Distribution(**settings),
        lambda: token_logprobs(hidden @ weight.T, token_ids, **settings),
        lambda: token_logprobs_and_entropy(hidden @ weight.T, token_ids, **settings),
        lambda: chunked_token_logprobs(hidden, weight, token_ids, **settings),
        lambda: chunked_logprobs_and_entropy(hidden, weight, token_ids, **settings),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
