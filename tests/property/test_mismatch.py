from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.losses.cispo import cispo_loss
from grpo_core.losses.dual_clip import dual_clip_loss
from grpo_core.losses.grpo import grpo_loss
from grpo_core.masking import token_weights
from grpo_core.mismatch import MISMATCHES, Mismatch, mismatch_weights
from strategies import Batch, ragged_batches

modes = st.sampled_from(MISMATCHES)
caps = st.sampled_from([1.05, 1.2, 2.0, 3.0])


def oracle(batch: Batch, how: str, cap: float) -> list[list[float]]:
    table = [[0.0] * batch.mask.shape[1] for _ in batch.mask]
    for i, flags in enumerate(batch.mask.tolist()):
        trained = [t for t, counts in enumerate(flags) if counts]
        gaps = {t: float(batch.logprobs[i, t] - batch.old_logprobs[i, t]) for t in trained}
        for t in trained:
            gap = sum(gaps.values()) / len(gaps) if how.startswith("sequence") else gaps[t]
            weight = math.exp(gap)
            if how.endswith("truncate"):
                table[i][t] = min(weight, cap)
            elif 1 / cap <= weight <= cap:
                table[i][t] = weight
    return table


@given(ragged_batches(), modes, caps)
def test_equals_plain_python(batch: Batch, how: Mismatch, cap: float) -> None:
    got = mismatch_weights(batch.logprobs, batch.old_logprobs, batch.mask, how, cap=cap)
    expected = torch.tensor(oracle(batch, how, cap), dtype=torch.float64)
    assert_close(got, expected.reshape(got.shape), rtol=1e-9, atol=1e-12)
    assert (got >= 0).all() and (got <= cap).all()


@given(ragged_batches(), modes)
def test_equal_policies_have_weight_one(batch: Batch, how: Mismatch) -> None:
    got = mismatch_weights(batch.logprobs, batch.logprobs, batch.mask, how)
    assert torch.equal(got, batch.mask.double())


@given(ragged_batches(), modes, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_masked_junk_changes_nothing(batch: Batch, how: Mismatch, junk: float) -> None:
    clean = mismatch_weights(batch.logprobs, batch.old_logprobs, batch.mask, how)
    dirty = batch.with_masked(junk)
    assert torch.equal(mismatch_weights(dirty.logprobs, dirty.old_logprobs, dirty.mask, how), clean)


def test_the_token_ratio_makes_the_sampler_unbiased() -> None:
    """E over q of (p / q) f = E over p of f, for a cap that is never met."""
    generator = torch.Generator().manual_seed(0)
    q, p, f = torch.rand(3, 6, generator=generator, dtype=torch.float64) + 0.2
    q, p = q / q.sum(), p / p.sum()
    mask = torch.ones(6, 1)
    weights = mismatch_weights(
        p.log().unsqueeze(1), q.log().unsqueeze(1), mask, "token_truncate", cap=1e9
    )
    assert_close((q * weights.squeeze(1) * f).sum(), (p * f).sum())


def test_a_long_completion_is_judged_by_its_mean_not_its_sum() -> None:
    logprobs = torch.zeros(1, 500)
    weights = mismatch_weights(logprobs, logprobs - 0.01, torch.ones(1, 500), "sequence_mask")
    assert weights.unique().tolist() == pytest.approx([math.exp(0.01)])


@pytest.mark.parametrize("loss", [grpo_loss, cispo_loss, dual_clip_loss])
@given(batch=ragged_batches(), how=modes)
def test_weighted_advantages_weigh_the_gradient_but_not_the_kl(
    loss: object, batch: Batch, how: Mismatch
) -> None:
    """TRL's order: the policy term times the ratio, then plus beta times the KL."""
    assert callable(loss)
    weights = token_weights(batch.mask, "token_mean", **batch.counts, dtype=torch.float64)
    factor = mismatch_weights(batch.old_logprobs, batch.ref_logprobs, batch.mask, how)

    def gradient(advantages: torch.Tensor, beta: float) -> torch.Tensor:
        logprobs = batch.logprobs.clone().requires_grad_()
        output = loss(
            logprobs,
            batch.old_logprobs,
            advantages,
            weights,
            completion_mask=batch.mask,
            beta=beta,
            ref_logprobs=batch.ref_logprobs,
        )
        output.loss.backward()
        assert logprobs.grad is not None
        return logprobs.grad

    plain = gradient(batch.advantages, 0.0)
    kl = gradient(batch.advantages, 0.1) - plain
    weighted = gradient(batch.advantages.unsqueeze(1) * factor, 0.1)
    assert_close(weighted, plain * factor + kl)


def test_passes_no_gradient() -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    for how in MISMATCHES:
        assert not mismatch_weights(logprobs, logprobs, torch.ones(1, 2), how).requires_grad


def test_wrong_settings_are_refused() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(ConfigError, match=r"Unknown mismatch correction 'token'.*token_mask"):
        mismatch_weights(zeros, zeros, zeros, "token")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cap must be > 1, got 1\.0"):
        mismatch_weights(zeros, zeros, zeros, "token_mask", cap=1.0)
    with pytest.raises(ShapeError, match="one shape"):
        mismatch_weights(zeros, torch.zeros(1, 3), zeros, "token_mask")
