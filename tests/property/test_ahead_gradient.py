"""Completions of older weights, weighted by mismatch_weights, give the gradient of the newer ones.

Completions of one token can be enumerated, so both expectations are sums over the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from grpo_core.config import RunConfig
from grpo_core.losses.cispo import cispo_loss
from grpo_core.losses.dual_clip import dual_clip_loss
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.gspo import gspo_loss
from grpo_core.training.dealing import pack
from grpo_core.training.learner import Learner
from grpo_core.training.objective import BatchCounts, Known, micro_batch_loss
from grpo_core.training.optimizer import create_optimizer
from grpo_core.training.packing import MicroBatch, TrainingCompletion
from grpo_core.training.policy import find_layout, trainer_mode
from grpo_core.training.precision import MasterWeights
from grpo_core.training.probe import sequence_logprobs
from grpo_core.validation import build
from tiny_model import tiny_model

PROMPT = (1, 40, 50, 60)
WIDE = {"epsilon_low": 1.0, "epsilon_high": 1e9}  # nothing is clipped
HOW = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@cache
def learner(loss: Callable[..., Any], how: str, cap: float) -> Learner:
    values = {"sampling": {"mismatch": how, "mismatch_cap": cap}, "grpo": WIDE}
    config = build(RunConfig, values)
    model = tiny_model()
    layout = find_layout(model)
    masters = MasterWeights(model, torch.float32)
    optimizer = create_optimizer(masters.parameters, config.trainer)
    return Learner(model, masters, optimizer, layout, loss, config)


@cache
def policy_logprobs(seed: int) -> Tensor:
    """[V] of each next token under the policy (seed 0), or under another one."""
    model = tiny_model(seed=seed)
    vocabulary = model.get_input_embeddings().num_embeddings
    sequences = [(*PROMPT, token) for token in range(vocabulary)]
    rows = sequence_logprobs(model, find_layout(model), sequences, 10_000)
    return torch.stack([row[-1] for row in rows])


def expected_gradient(
    learner: Learner, advantages: Tensor, sampler: Tensor, old: Tensor | None
) -> Tensor:
    """The gradient of the loss, averaged over the sampler's completions.

    Args:
        learner: of the policy.
        advantages: [V] of each token.
        sampler: [V] log-probabilities of the sampler.
        old: [V] of the policy in the first iteration; None in that iteration.
    """
    weighted = (sampler.exp() * advantages).tolist()  # a loss is linear in the advantage
    items = [
        TrainingCompletion(PROMPT, [token], weight, [logprob], place=token)
        for token, (weight, logprob) in enumerate(zip(weighted, sampler.tolist(), strict=True))
    ]
    (batch,) = pack(items, 10_000, share_prompts=learner.layout.share_prompts)
    counts = BatchCounts(len(items), len(items))
    learner.model.zero_grad()
    with trainer_mode(learner.model, learner.layout):
        known = Known(old=None if old is None else of_batch(batch, old))
        micro_batch_loss(learner, batch, counts, known).loss.backward()
    return torch.cat([p.grad.flatten() for p in learner.masters.parameters.values()])


def of_batch(batch: MicroBatch, values: Tensor) -> Tensor:
    """[B, 1] in the order that packing has chosen."""
    return values.float()[batch.places, None]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss, cispo_loss, dual_clip_loss])
@settings(max_examples=5)
@given(sampler=st.integers(1, 5), rewards=st.integers(0, 10**6))
def test_in_the_first_iteration(loss: Any, how: str, sampler: int, rewards: int) -> None:
    here = learner(loss, how, 1e9)
    now, advantages = policy_logprobs(0), drawn(rewards)
    right = expected_gradient(here, advantages, now, None)
    stale = expected_gradient(here, advantages, policy_logprobs(sampler), None)
    assert_close(stale, right, rtol=1e-3, atol=1e-4 * right.abs().max().item())


@pytest.mark.parametrize("how", HOW)
@settings(max_examples=5)
@given(sampler=st.integers(1, 5), first=st.integers(1, 5), rewards=st.integers(0, 10**6))
def test_in_later_iterations_ratio_and_weight_multiply(
    how: str, sampler: int, first: int, rewards: int
) -> None:
    """pi_old / pi_sampler is the weight, pi / pi_old the ratio that is clipped."""
    here = learner(grpo_loss, how, 1e9)
    now, advantages = policy_logprobs(0), drawn(rewards)
    right = expected_gradient(here, advantages, now, None)
    stale = expected_gradient(here, advantages, policy_logprobs(sampler), policy_logprobs(first))
    assert_close(stale, right, rtol=1e-3, atol=1e-4 * right.abs().max().item())


def test_without_the_weight_it_would_be_another_gradient() -> None:
    here = learner(grpo_loss, "off", 2.0)
    now, advantages = policy_logprobs(0), drawn(7)
    right = expected_gradient(here, advantages, now, None)
    stale = expected_gradient(here, advantages, policy_logprobs(1), None)
    assert (stale - right).norm() > 0.1 * right.norm()


def drawn(seed: int) -> Tensor:
    """[V] advantages."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(policy_logprobs(0)), generator=generator, dtype=torch.float64)
