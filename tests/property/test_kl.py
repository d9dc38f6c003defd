from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ShapeError
from grpo_core.kl import k1, k2, k3

seeds = st.integers(0, 2**32 - 1)


def two_distributions(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a policy and log-probabilities of a reference over five tokens."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    return policy.requires_grad_(), reference.log_softmax(-1)


@given(seeds)
def test_k1_and_k3_have_the_kl_as_their_expectation(seed: int) -> None:
    policy, reference = two_distributions(seed)
    logprobs = policy.log_softmax(-1).detach()
    exact = torch.sum(logprobs.exp() * (logprobs - reference))
    for estimator in (k1, k3):
        assert_close(torch.sum(logprobs.exp() * estimator(logprobs, reference)), exact)


@given(seeds)
def test_gradients_of_the_three_are_those_the_docstring_names(seed: int) -> None:
    policy, reference = two_distributions(seed)
    logprobs = policy.log_softmax(-1)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, policy, retain_graph=True)[0]

    sampling = logprobs.exp().detach()
    forward = gradient(torch.sum(logprobs.exp() * (logprobs - reference)))
    backward = gradient(torch.sum(reference.exp() * (reference - logprobs)))
    assert_close(gradient(torch.sum(sampling * k1(logprobs, reference))), torch.zeros_like(forward))
    assert_close(gradient(torch.sum(sampling * k2(logprobs, reference))), forward)
    assert_close(gradient(torch.sum(sampling * k3(logprobs, reference))), backward)


@given(st.floats(-80, 0, width=32), st.floats(-20, 20, width=32), st.floats(0, 1, width=32))
def test_k2_and_k3_are_never_negative_in_float32(
    logprob: float, difference: float, shrink: float
) -> None:
    logprobs = torch.tensor([logprob] * 2)
    reference = logprobs + torch.tensor([difference, difference * shrink**16])
    assert (k3(logprobs, reference) >= 0).all()
    assert (k2(logprobs, reference) >= 0).all()


def test_k3_is_never_negative_where_rounding_is_all_there_is() -> None:
    d = torch.logspace(-12, 0, 100_001)
    for difference in (d, -d):
        assert (k3(torch.zeros_like(d), difference) >= 0).all()


@given(st.lists(st.floats(-60, 0), min_size=1, max_size=8))
def test_all_are_exactly_zero_with_zero_gradient_for_k3_when_equal(values: list[float]) -> None:
    logprobs = torch.tensor(values, requires_grad=True)
    reference = logprobs.detach().clone()
    for estimator in (k1, k2, k3):
        assert (estimator(logprobs, reference) == 0).all()
    k3(logprobs, reference).sum().backward()
    assert (logprobs.grad == 0).all()


@given(st.floats(-30, 30))
def test_k3_is_accurate_in_float64(difference: float) -> None:
    got = k3(torch.zeros(1, dtype=torch.float64), torch.tensor([difference], dtype=torch.float64))
    expected = math.expm1(difference) - difference
    assert got.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("difference", [1e-3, -1e-3, 0.01, -0.1, 1.0])
def test_k3_keeps_its_digits_in_float32(difference: float) -> None:
    got = k3(torch.zeros(1), torch.tensor([difference])).item()
    assert got == pytest.approx(math.expm1(difference) - difference, rel=1e-3)


@given(st.floats(-30, 30))
def test_signs_and_scale(difference: float) -> None:
    zero, d = torch.zeros(1, dtype=torch.float64), torch.tensor([difference], dtype=torch.float64)
    assert k1(zero, d).item() == -difference
    assert k2(zero, d).item() == pytest.approx(difference**2 / 2)


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_shapes_must_be_equal(estimator: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"got \[3, 3\] and \[3\]"):
        estimator(torch.zeros(3, 3), torch.zeros(3))
