from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.output import LossOutput
from grpo_core.masking import Aggregation, token_weights
from strategies import Batch, ragged_batches

aggregations = st.sampled_from(["sequence_mean", "token_mean"])
epsilons = st.sampled_from([0.0, 0.1, 0.2, 0.28, 0.9])
betas = st.sampled_from([0.0, 0.04, 1.0])
junk_values = st.sampled_from([math.nan, math.inf, -math.inf, 1e30])


def weights_of(batch: Batch, how: Aggregation, counts: dict[str, Any] | None = None) -> Any:
    return token_weights(batch.mask, how, **(counts or batch.counts), dtype=torch.float64)


def run(batch: Batch, weights: torch.Tensor, **settings: Any) -> tuple[LossOutput, torch.Tensor]:
    """The loss of a batch and its gradient with respect to logprobs."""
    logprobs = batch.logprobs.detach().clone().requires_grad_()
    if settings.get("beta", 0) > 0:
        settings.setdefault("ref_logprobs", batch.ref_logprobs)
    output = grpo_loss(
        logprobs,
        batch.old_logprobs,
        batch.advantages,
        weights,
        completion_mask=batch.mask,
        **settings,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    return output, logprobs.grad


def oracle(
    batch: Batch,
    how: Aggregation,
    epsilon_low: float,
    epsilon_high: float,
    beta: float,
) -> tuple[float, list[list[float]]]:
    """Loss and gradient, token by token, with the derivative worked out by hand."""
    num_completions, num_positions = batch.mask.shape
    num_tokens = sum(sum(row) for row in batch.mask.tolist())
    loss, gradient = 0.0, [[0.0] * num_positions for _ in range(num_completions)]
    for i in range(num_completions):
        advantage = float(batch.advantages[i])
        trained = [t for t in range(num_positions) if batch.mask[i, t]]
        for t in trained:
            weight = 1 / num_tokens
            if how == "sequence_mean":
                weight = 1 / (num_completions * len(trained))
            logprob, reference = float(batch.logprobs[i, t]), float(batch.ref_logprobs[i, t])
            ratio = math.exp(logprob - float(batch.old_logprobs[i, t]))
            slope = ratio * advantage
            if advantage > 0 and ratio > 1 + epsilon_high:
                surrogate, slope = (1 + epsilon_high) * advantage, 0.0
            elif advantage < 0 and ratio < 1 - epsilon_low:
                surrogate, slope = (1 - epsilon_low) * advantage, 0.0
            else:
                surrogate = ratio * advantage
            kl = math.exp(reference - logprob) - (reference - logprob) - 1
            loss += weight * (beta * kl - surrogate)
            gradient[i][t] = weight * (beta * (1 - math.exp(reference - logprob)) - slope)
    return loss, gradient


@given(ragged_batches(), aggregations, epsilons, epsilons, betas)
def test_loss_and_gradient_equal_plain_python(
    batch: Batch, how: Aggregation, epsilon_low: float, epsilon_high: float, beta: float
) -> None:
    settings = {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high, "beta": beta}
    output, gradient = run(batch, weights_of(batch, how), **settings)
    loss, expected = oracle(batch, how, **settings)
    assert output.loss.item() == pytest.approx(loss, abs=1e-12)
    expected_gradient = torch.tensor(expected, dtype=torch.float64).reshape(batch.mask.shape)
    assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@given(ragged_batches(), st.floats(0, 0.9), st.floats(0, 3))
def test_metrics_count_what_the_oracle_clips(
    batch: Batch, epsilon_low: float, epsilon_high: float
) -> None:
    output, _ = run(
        batch, weights_of(batch, "token_mean"), epsilon_low=epsilon_low, epsilon_high=epsilon_high
    )
    log_ratios = (batch.logprobs - batch.old_logprobs).tolist()
    low = high = 0
    kept = []
    for advantage, row, flags in zip(
        batch.advantages.tolist(), log_ratios, batch.mask.tolist(), strict=True
    ):
        for log_ratio, trained in zip(row, flags, strict=True):
            if trained:
                kept.append(log_ratio)
                low += advantage < 0 and math.exp(log_ratio) < 1 - epsilon_low
                high += advantage > 0 and math.exp(log_ratio) > 1 + epsilon_high
    got = {name: value.item() for name, value in output.metrics.items()}
    assert got == pytest.approx(
        {
            "num_tokens": len(kept),
            "clipped_low_tokens": low,
            "clipped_high_tokens": high,
            "ratio_sum": sum(math.exp(x) for x in kept),
            "log_ratio_sum": sum(kept),
            "log_ratio_square_sum": sum(x * x for x in kept),
        }
    )


@given(ragged_batches(), aggregations, betas, st.integers(1, 6), st.data())
def test_micro_batches_sum_to_the_whole_batch(
    batch: Batch, how: Aggregation, beta: float, size: int, data: st.DataObject
) -> None:
    output, gradient = run(batch, weights_of(batch, how), beta=beta)
    order = torch.tensor(data.draw(st.permutations(range(len(batch.mask)))))
    loss, metrics = torch.zeros((), dtype=torch.float64), dict.fromkeys(output.metrics, 0)
    pieces = torch.zeros_like(gradient)
    for index in order.split(size):
        part = batch.rows(index)
        part_output, pieces[index] = run(part, weights_of(part, how, batch.counts), beta=beta)
        loss += part_output.loss.detach()
        metrics = {name: metrics[name] + value for name, value in part_output.metrics.items()}
    assert_close(loss, output.loss.detach())
    assert_close(pieces, gradient)
    assert_close(metrics, output.metrics)


@given(ragged_batches(), aggregations, betas, st.integers(0, 3), st.integers(0, 3), junk_values)
def test_padding_changes_nothing(
    batch: Batch, how: Aggregation, beta: float, left: int, right: int, junk: float
) -> None:
    output, gradient = run(batch, weights_of(batch, how), beta=beta)
    padded = batch.padded(left, right, junk)
    padded_output, padded_gradient = run(padded, weights_of(padded, how), beta=beta)
    assert_close(padded_output.loss, output.loss)
    assert_close(padded_output.metrics, output.metrics)
    assert_close(padded_gradient[:, left : left + batch.mask.shape[1]], gradient)
    assert (padded_gradient[~padded.mask] == 0).all()


@given(ragged_batches(), aggregations, betas, junk_values)
def test_masked_junk_changes_neither_loss_nor_gradient_nor_metrics(
    batch: Batch, how: Aggregation, beta: float, junk: float
) -> None:
    weights = weights_of(batch, how)
    output, gradient = run(batch, weights, beta=beta)
    empty = ~batch.mask.any(-1)
    dirty = replace(batch.with_masked(junk), advantages=batch.advantages.masked_fill(empty, junk))
    dirty_output, dirty_gradient = run(dirty, weights.masked_fill(~batch.mask, junk), beta=beta)
    assert torch.equal(dirty_output.loss, output.loss)
    assert torch.equal(dirty_gradient, gradient)
    assert dirty_output.metrics == output.metrics
    assert (dirty_gradient[~batch.mask] == 0).all()


@given(ragged_batches(), aggregations, epsilons, epsilons)
def test_at_ratio_one_the_gradient_is_reinforce(
    batch: Batch, how: Aggregation, epsilon_low: float, epsilon_high: float
) -> None:
    on_policy = replace(batch, old_logprobs=batch.logprobs)
    weights = weights_of(batch, how)
    output, gradient = run(on_policy, weights, epsilon_low=epsilon_low, epsilon_high=epsilon_high)
    logprobs = batch.logprobs.clone().requires_grad_()
    reinforce = -(weights * batch.advantages.unsqueeze(1) * logprobs).sum()
    reinforce.backward()
    assert_close(gradient, logprobs.grad)
    assert output.metrics["clipped_low_tokens"] == output.metrics["clipped_high_tokens"] == 0


def test_on_policy_the_same_tensor_may_be_both_policies() -> None:
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    ones = torch.ones(1, 2)
    output = grpo_loss(logprobs, logprobs, torch.ones(1), ones, completion_mask=ones)
    output.loss.backward()
    assert_close(logprobs.grad, -ones)


@given(ragged_batches(), aggregations)
def test_infinite_epsilons_never_clip(batch: Batch, how: Aggregation) -> None:
    weights = weights_of(batch, how)
    output, gradient = run(batch, weights, epsilon_low=math.inf, epsilon_high=math.inf)
    logprobs = batch.logprobs.clone().requires_grad_()
    ratio = (logprobs - batch.old_logprobs).exp()
    unclipped = -(weights * ratio * batch.advantages.unsqueeze(1)).sum()
    unclipped.backward()
    assert_close(output.loss, unclipped)
    assert_close(gradient, logprobs.grad)


@given(ragged_batches(), aggregations, st.floats(0.01, 0.9))
def test_equal_epsilons_are_the_symmetric_clip(
    batch: Batch, how: Aggregation, epsilon: float
) -> None:
    """DAPO's clip with one epsilon is GRPO's: clip(ratio, 1 - epsilon, 1 + epsilon)."""
    weights, advantages = weights_of(batch, how), batch.advantages.unsqueeze(1)
    output, gradient = run(batch, weights, epsilon_low=epsilon, epsilon_high=epsilon)
    logprobs = batch.logprobs.clone().requires_grad_()
    ratio = (logprobs - batch.old_logprobs).exp()
    clipped = 1 + (ratio - 1).clamp(-epsilon, epsilon)
    expected = -(weights * torch.minimum(ratio * advantages, clipped * advantages)).sum()
    expected.backward()
    assert_close(output.loss, expected)
    assert_close(gradient, logprobs.grad)


@given(ragged_batches(), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_clipping_only_ever_raises_the_loss(
    batch: Batch, epsilon_low: float, epsilon_high: float
) -> None:
    weights = weights_of(batch, "token_mean")
    clipped, _ = run(batch, weights, epsilon_low=epsilon_low, epsilon_high=epsilon_high)
    free, _ = run(batch, weights, epsilon_low=math.inf, epsilon_high=math.inf)
    assert clipped.loss >= free.loss - 1e-12


@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [
        (1.0, 1.29, False),  # good and already likelier than 1 + epsilon_high: no further
        (1.0, 1.27, True),
        (1.0, 0.50, True),  # good but less likely: pulled back, however far
        (-1.0, 0.79, False),  # bad and already rarer than 1 - epsilon_low: no further
        (-1.0, 0.81, True),
        (-1.0, 5.00, True),  # bad but likelier: pushed back, however far
        (0.0, 5.00, False),
    ],
)
def test_dead_zones_of_the_clip(advantage: float, ratio: float, moves: bool) -> None:
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    one = torch.ones(1, 1)
    output = grpo_loss(
        logprobs,
        torch.zeros(1, 1),
        torch.tensor([advantage]),
        one,
        completion_mask=one,
        epsilon_low=0.2,
        epsilon_high=0.28,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(-advantage * ratio if moves else 0)
    clipped = not moves and advantage != 0
    assert output.metrics["clipped_high_tokens"] == int(clipped and advantage > 0)
    assert output.metrics["clipped_low_tokens"] == int(clipped and advantage < 0)


@given(ragged_batches(), st.floats(0.01, 2))
def test_the_kl_adds_beta_times_a_penalty_that_is_never_negative(batch: Batch, beta: float) -> None:
    weights = weights_of(batch, "sequence_mean")
    without, _ = run(batch, weights)
    with_kl, _ = run(batch, weights, beta=beta)
    double, _ = run(batch, weights, beta=2 * beta)
    assert with_kl.loss >= without.loss
    assert_close(double.loss - without.loss, 2 * (with_kl.loss - without.loss))
    assert_close(double.metrics["kl_sum"], with_kl.metrics["kl_sum"])
    assert "kl_sum" not in without.metrics


@given(ragged_batches(), st.floats(0.01, 2))
def test_a_reference_equal_to_the_policy_adds_nothing(batch: Batch, beta: float) -> None:
    weights = weights_of(batch, "token_mean")
    output, gradient = run(batch, weights, beta=beta, ref_logprobs=batch.logprobs)
    without, gradient_without = run(batch, weights)
    assert_close(output.loss, without.loss)
    assert_close(gradient, gradient_without)
    assert output.metrics["kl_sum"] == 0


class Untouchable:
    """Raises on every access, even on comparison and truth."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the reference was read: {name}")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the reference was compared")

    def __bool__(self) -> bool:
        raise AssertionError("the reference was tested for truth")


@given(ragged_batches())
def test_beta_zero_never_reads_a_reference(batch: Batch) -> None:
    weights = weights_of(batch, "token_mean")
    output, gradient = run(batch, weights, ref_logprobs=Untouchable())
    expected, expected_gradient = run(batch, weights)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient, expected_gradient)


@given(ragged_batches())
def test_only_logprobs_receives_a_gradient(batch: Batch) -> None:
    constants = [
        tensor.clone().requires_grad_()
        for tensor in (
            batch.old_logprobs,
            batch.advantages,
            weights_of(batch, "token_mean"),
            batch.ref_logprobs,
        )
    ]
    old, advantages, weights, reference = constants
    logprobs = batch.logprobs.clone().requires_grad_()
    output = grpo_loss(
        logprobs,
        old,
        advantages,
        weights,
        completion_mask=batch.mask,
        beta=0.1,
        ref_logprobs=reference,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    assert all(constant.grad is None for constant in constants)
    assert not any(value.requires_grad for value in output.metrics.values())


def test_a_batch_without_tokens_has_loss_and_gradient_zero() -> None:
    for shape in ((2, 3), (0, 3), (2, 0)):
        logprobs = torch.full(shape, math.nan, requires_grad=True)
        zeros = torch.zeros(shape)
        output = grpo_loss(logprobs, zeros, torch.ones(shape[0]), zeros, completion_mask=zeros)
        output.loss.backward()
        assert logprobs.grad is not None
        assert output.loss.item() == 0
        assert (logprobs.grad == 0).all()
        assert output.metrics["num_tokens"] == 0


def test_float32_logprobs_keep_their_dtype_beside_float64_advantages() -> None:
    ones = torch.ones(1, 2)
    output = grpo_loss(
        -ones, -ones, torch.ones(1, dtype=torch.float64), ones.double(), completion_mask=ones
    )
    assert output.loss.dtype == torch.float32


def valid_arguments() -> dict[str, Any]:
    return {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "weights": torch.zeros(2, 3),
        "completion_mask": torch.ones(2, 3),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logprobs": torch.zeros(2)}, r"logprobs must be \[B, T\], got \[2\]"),
        ({"old_logprobs": torch.zeros(3)}, r"old_logprobs .*\[2, 3\], got \[3\]"),
        ({"weights": torch.zeros(2, 1)}, r"weights .*got \[2, 1\]"),
        ({"completion_mask": torch.ones(1, 3)}, r"completion_mask .*got \[1, 3\]"),
        ({"completion_mask": torch.full((2, 3), 0.5)}, "completion_mask must hold 0 and 1 only"),
        ({"advantages": torch.zeros(2, 2)}, r"advantages must be \[2\] or \[2, 3\], got \[2, 2\]"),
        ({"advantages": torch.zeros(3)}, r"advantages must be \[2\] or \[2, 3\], got \[3\]"),
        ({"beta": 0.1, "ref_logprobs": torch.zeros(2, 1)}, r"ref_logprobs .*got \[2, 1\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        grpo_loss(**valid_arguments() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.04}, r"beta = 0.04 needs ref_logprobs, got None: .*set grpo\.beta = 0"),
        ({"beta": -0.1}, "beta must be >= 0 and finite, got -0.1"),
        ({"beta": math.nan}, "beta must be >= 0 and finite, got nan"),
        ({"beta": math.inf}, "beta must be >= 0 and finite, got inf"),
        ({"epsilon_low": -0.1}, "epsilon_low must be >= 0, got -0.1"),
        ({"epsilon_high": math.nan}, "epsilon_high must be >= 0, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grpo_loss(**valid_arguments() | change)
