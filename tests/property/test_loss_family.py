"""What every policy loss obeys, and each against plain Python with its derivative by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.errors import ConfigError, ShapeError
from grpo_core.losses.cispo import cispo_loss
from grpo_core.losses.dual_clip import dual_clip_loss
from grpo_core.losses.grpo import grpo_loss
from grpo_core.losses.gspo import gspo_loss
from grpo_core.losses.output import LossOutput
from grpo_core.masking import AGGREGATIONS, Aggregation, token_weights
from grpo_core.plugin_manager import PluginSources, load_plugins
from strategies import Batch, ragged_batches

Loss = Callable[..., LossOutput]

LOSSES: list[Loss] = [grpo_loss, gspo_loss, cispo_loss, dual_clip_loss]
LOSSES_BY_NAME = {loss.__name__.removesuffix("_loss"): loss for loss in LOSSES}
aggregations = st.sampled_from(AGGREGATIONS)
epsilons = st.sampled_from([0.0, 0.02, 0.1, 0.28, 0.9])
betas = st.sampled_from([0.0, 0.04, 1.0])
estimators = st.sampled_from(["k1", "k2", "k3"])
junk_values = st.sampled_from([math.nan, math.inf, -math.inf, 1e30])
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=[item.__name__ for item in LOSSES])


def weights_of(batch: Batch, how: Aggregation, counts: dict[str, Any] | None = None) -> Any:
    counts = counts or batch.counts
    return token_weights(batch.mask, how, **counts, max_new_tokens=8, dtype=torch.float64)


def run(
    loss: Loss, batch: Batch, weights: torch.Tensor, **settings: Any
) -> tuple[LossOutput, torch.Tensor]:
    """The loss of a batch and its gradient with respect to logprobs."""
    logprobs = batch.logprobs.detach().clone().requires_grad_()
    if settings.get("beta", 0) > 0:
        settings.setdefault("ref_logprobs", batch.ref_logprobs)
    advantages = settings.pop("advantages", batch.advantages)
    output = loss(
        logprobs,
        batch.old_logprobs,
        advantages,
        weights,
        completion_mask=batch.mask,
        **settings,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    return output, logprobs.grad


# ---- plain Python ------------------------------------------------------------------------------


def clip(ratio: float, low: float, high: float) -> float:
    return min(max(ratio, 1 - low), 1 + high)


def ppo(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float]:
    """Value, and derivative with respect to the log-ratio."""
    if advantage > 0 and ratio > 1 + high:
        return (1 + high) * advantage, 0.0
    if advantage < 0 and ratio < 1 - low:
        return (1 - low) * advantage, 0.0
    return ratio * advantage, ratio * advantage


def kl_of(estimator: str, logprob: float, reference: float) -> tuple[float, float]:
    """Value, and derivative with respect to the policy's logprob."""
    d = reference - logprob
    match estimator:
        case "k1":
            return -d, 1.0
        case "k2":
            return d * d / 2, -d
        case _:
            return math.exp(d) - 1 - d, 1 - math.exp(d)


def oracle(
    loss: Loss, batch: Batch, weights: list[list[float]], low: float, high: float
) -> tuple[float, list[list[float]], int, int]:
    """Loss, gradient, and tokens clipped below and above."""
    value, gradient = 0.0, [[0.0] * len(row) for row in weights]
    clipped_low = clipped_high = 0
    for i, flags in enumerate(batch.mask.tolist()):
        advantage = float(batch.advantages[i])
        trained = [t for t, counts in enumerate(flags) if counts]
        logs = {t: float(batch.logprobs[i, t] - batch.old_logprobs[i, t]) for t in trained}
        for t in trained:
            weight, logprob = weights[i][t], float(batch.logprobs[i, t])
            ratio = math.exp(logs[t])
            if loss is gspo_loss:
                ratio = math.exp(sum(logs.values()) / len(trained))
            up, down = ratio > 1 + high, ratio < 1 - low
            if loss is cispo_loss:
                fixed = clip(ratio, low, high) * advantage
                surrogate, slope = fixed * logprob, fixed
            else:
                surrogate, slope = ppo(ratio, advantage, low, high)
                up, down = up and advantage > 0, down and advantage < 0
            if loss is dual_clip_loss and advantage < 0 and ratio > 3:
                surrogate, slope, up = 3 * advantage, 0.0, True
            clipped_low, clipped_high = clipped_low + down, clipped_high + up
            value -= weight * surrogate
            if loss is gspo_loss:  # each token moves the ratio all of them share
                for other in trained:
                    gradient[i][other] -= weight * slope / len(trained)
            else:
                gradient[i][t] -= weight * slope
    return value, gradient, clipped_low, clipped_high


@every_loss
@given(
    batch=ragged_batches(),
    how=aggregations,
    low=epsilons,
    high=epsilons,
    stretch=st.sampled_from([0.1, 1.0, 4.0]),
)
def test_loss_gradient_and_counts_equal_plain_python(
    loss: Loss, batch: Batch, how: Aggregation, low: float, high: float, stretch: float
) -> None:
    far = batch.old_logprobs + stretch * (batch.logprobs - batch.old_logprobs)
    batch = replace(batch, logprobs=far)
    weights = weights_of(batch, how)
    output, gradient = run(loss, batch, weights, epsilon_low=low, epsilon_high=high)
    value, expected, clipped_low, clipped_high = oracle(loss, batch, weights.tolist(), low, high)
    assert output.loss.item() == pytest.approx(value, rel=1e-9, abs=1e-12)
    expected_gradient = torch.tensor(expected, dtype=torch.float64).reshape(batch.mask.shape)
    assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    assert output.metrics["clipped_low_tokens"] == clipped_low
    assert output.metrics["clipped_high_tokens"] == clipped_high
    assert output.metrics["num_tokens"] == int(batch.mask.sum())


@every_loss
@given(batch=ragged_batches(), how=aggregations, beta=st.floats(0.01, 2), estimator=estimators)
def test_the_kl_is_added_to_loss_and_gradient(
    loss: Loss, batch: Batch, how: Aggregation, beta: float, estimator: str
) -> None:
    weights = weights_of(batch, how)
    without, gradient_without = run(loss, batch, weights)
    output, gradient = run(loss, batch, weights, beta=beta, kl_estimator=estimator)
    total, added, slopes = 0.0, 0.0, torch.zeros_like(gradient)
    for i, t in batch.mask.nonzero().tolist():
        kl, slope = kl_of(estimator, float(batch.logprobs[i, t]), float(batch.ref_logprobs[i, t]))
        total += kl
        added += beta * float(weights[i, t]) * kl
        slopes[i, t] = beta * float(weights[i, t]) * slope
    assert (output.loss - without.loss).item() == pytest.approx(added, rel=1e-8, abs=1e-10)
    assert_close(gradient - gradient_without, slopes, rtol=1e-8, atol=1e-10)
    assert output.metrics["kl_sum"].item() == pytest.approx(total, rel=1e-9, abs=1e-12)
    assert "kl_sum" not in without.metrics


# ---- laws --------------------------------------------------------------------------------------


@every_loss
@given(batch=ragged_batches(), how=aggregations, low=epsilons, high=epsilons)
def test_at_ratio_one_the_gradient_is_reinforce(
    loss: Loss, batch: Batch, how: Aggregation, low: float, high: float
) -> None:
    on_policy = replace(batch, old_logprobs=batch.logprobs)
    weights = weights_of(batch, how)
    output, gradient = run(loss, on_policy, weights, epsilon_low=low, epsilon_high=high)
    assert_close(gradient, -weights * batch.advantages.unsqueeze(1))
    assert output.metrics["clipped_low_tokens"] == output.metrics["clipped_high_tokens"] == 0


@pytest.mark.parametrize("name", LOSSES_BY_NAME)
@given(batch=ragged_batches(), how=aggregations)
def test_infinite_epsilons_give_the_unclipped_loss(
    name: str, batch: Batch, how: Aggregation
) -> None:
    """In plain torch, with the gradient from autograd."""
    weights = weights_of(batch, how)
    logprobs, advantages = batch.logprobs.clone().requires_grad_(), batch.advantages.unsqueeze(1)
    gap = logprobs - batch.old_logprobs
    lengths = batch.mask.sum(-1, keepdim=True).clamp(min=1)
    surrogate = {
        "grpo": gap.exp() * advantages,
        "gspo": ((gap * batch.mask).sum(-1, keepdim=True) / lengths).exp() * advantages,
        "cispo": gap.detach().exp() * advantages * logprobs,
        "dual_clip": gap.exp() * advantages,
    }[name]
    expected = -(surrogate * weights).sum()
    expected.backward()
    wide = {"epsilon_low": math.inf, "epsilon_high": math.inf}
    wide |= {"ratio_cap": math.inf} if name == "dual_clip" else {}
    output, gradient = run(LOSSES_BY_NAME[name], batch, weights, **wide)
    assert_close(output.loss, expected)
    assert_close(gradient, logprobs.grad)


@every_loss
@given(batch=ragged_batches(), how=aggregations, beta=betas, size=st.integers(1, 6), data=st.data())
def test_micro_batches_sum_to_the_whole_batch(
    loss: Loss, batch: Batch, how: Aggregation, beta: float, size: int, data: st.DataObject
) -> None:
    output, gradient = run(loss, batch, weights_of(batch, how), beta=beta)
    order = torch.tensor(data.draw(st.permutations(range(len(batch.mask)))))
    value, metrics = torch.zeros((), dtype=torch.float64), dict.fromkeys(output.metrics, 0)
    pieces = torch.zeros_like(gradient)
    for index in order.split(size):
        part = batch.rows(index)
        weights = weights_of(part, how, batch.counts)
        part_output, pieces[index] = run(loss, part, weights, beta=beta)
        value += part_output.loss.detach()
        metrics = {name: metrics[name] + item for name, item in part_output.metrics.items()}
    assert_close(value, output.loss.detach())
    assert_close(pieces, gradient)
    assert_close(metrics, output.metrics)


@every_loss
@given(
    batch=ragged_batches(),
    beta=betas,
    left=st.integers(0, 3),
    right=st.integers(0, 3),
    junk=junk_values,
)
def test_masked_junk_and_padding_change_nothing(
    loss: Loss, batch: Batch, beta: float, left: int, right: int, junk: float
) -> None:
    weights = weights_of(batch, "sequence_mean")
    output, gradient = run(loss, batch, weights, beta=beta)
    empty = ~batch.mask.any(-1)
    dirty = replace(batch.with_masked(junk), advantages=batch.advantages.masked_fill(empty, junk))
    dirty = dirty.padded(left, right, junk)
    padded = torch.nn.functional.pad(weights, (left, right)).masked_fill(~dirty.mask, junk)
    dirty_output, dirty_gradient = run(loss, dirty, padded, beta=beta)
    assert_close(dirty_output.loss, output.loss)
    assert_close(dirty_output.metrics, output.metrics)
    assert_close(dirty_gradient[:, left : left + batch.mask.shape[1]], gradient)
    assert (dirty_gradient[~dirty.mask] == 0).all()


@every_loss
@given(batch=ragged_batches(), how=aggregations)
def test_an_advantage_for_each_token_is_read_as_one(
    loss: Loss, batch: Batch, how: Aggregation
) -> None:
    weights = weights_of(batch, how)
    output, gradient = run(loss, batch, weights)
    spread = batch.advantages.unsqueeze(1).expand_as(batch.mask).masked_fill(~batch.mask, math.nan)
    spread_output, spread_gradient = run(loss, batch, weights, advantages=spread)
    assert_close(spread_output.loss, output.loss)
    assert_close(spread_gradient, gradient)


@pytest.mark.parametrize("loss", [grpo_loss, cispo_loss, dual_clip_loss])
@given(batch=ragged_batches())
def test_token_advantages_weigh_each_token_on_its_own(loss: Loss, batch: Batch) -> None:
    weights = weights_of(batch, "token_mean")
    factor = torch.rand(batch.mask.shape, dtype=torch.float64)
    _, gradient = run(loss, batch, weights)
    spread = batch.advantages.unsqueeze(1) * factor
    _, scaled = run(loss, batch, weights, advantages=spread)
    assert_close(scaled, gradient * factor)


class Untouchable:
    """Raises on every access."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the reference was read: {name}")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("the reference was compared")

    def __bool__(self) -> bool:
        raise AssertionError("the reference was tested for truth")


@every_loss
@given(batch=ragged_batches())
def test_beta_zero_never_reads_a_reference(loss: Loss, batch: Batch) -> None:
    weights = weights_of(batch, "token_mean")
    output, gradient = run(loss, batch, weights, ref_logprobs=Untouchable())
    expected, expected_gradient = run(loss, batch, weights)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient, expected_gradient)


@every_loss
@given(batch=ragged_batches())
def test_only_logprobs_receives_a_gradient(loss: Loss, batch: Batch) -> None:
    weights = weights_of(batch, "token_mean")
    sources = (batch.old_logprobs, batch.advantages, weights, batch.ref_logprobs)
    constants = [tensor.clone().requires_grad_() for tensor in sources]
    old, advantages, weights, reference = constants
    logprobs = batch.logprobs.clone().requires_grad_()
    output = loss(
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


@every_loss
def test_a_batch_without_tokens_has_loss_and_gradient_zero(loss: Loss) -> None:
    for shape in ((2, 3), (0, 3), (2, 0)):
        logprobs = torch.full(shape, math.nan, requires_grad=True)
        zeros = torch.zeros(shape)
        output = loss(logprobs, zeros, torch.ones(shape[0]), zeros, completion_mask=zeros)
        output.loss.backward()
        assert logprobs.grad is not None
        assert output.loss.item() == 0 and (logprobs.grad == 0).all()
        assert output.metrics["num_tokens"] == 0


@every_loss
def test_wrong_settings_are_refused(loss: Loss) -> None:
    good = {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "weights": torch.zeros(2, 3),
        "completion_mask": torch.ones(2, 3),
    }
    for change, message in (
        ({"epsilon_low": -0.1}, "epsilon_low must be >= 0, got -0.1"),
        ({"epsilon_high": math.nan}, "epsilon_high must be >= 0, got nan"),
        ({"beta": -1.0}, "beta must be >= 0 and finite, got -1"),
        ({"beta": 1.0}, "needs ref_logprobs, got None"),
        ({"kl_estimator": "k4"}, r"Unknown KL estimator 'k4'.*Available: k1, k2, k3"),
    ):
        with pytest.raises(ConfigError, match=message):
            loss(**good | change)
    with pytest.raises(ShapeError, match="completion_mask must have the shape"):
        loss(**good | {"completion_mask": torch.ones(2, 2)})


# ---- what each is for --------------------------------------------------------------------------


def slope(loss: Loss, ratio: float, advantage: float, **settings: Any) -> tuple[float, LossOutput]:
    """Gradient of a single token's loss with respect to its logprob."""
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.float64)
    output = loss(
        logprobs,
        torch.zeros_like(one),
        torch.tensor([advantage], dtype=torch.float64),
        one,
        completion_mask=one,
        **settings,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    return logprobs.grad.item(), output


@pytest.mark.parametrize("loss", [grpo_loss, gspo_loss, dual_clip_loss])
@pytest.mark.parametrize(
    ("advantage", "ratio", "moves"),
    [
        (1.0, 1.29, False),
        (1.0, 1.27, True),
        (1.0, 0.50, True),
        (-1.0, 0.79, False),
        (-1.0, 0.81, True),
        (-1.0, 2.90, True),
        (0.0, 5.00, False),
    ],
)
def test_dead_zones(loss: Loss, advantage: float, ratio: float, moves: bool) -> None:
    got, output = slope(loss, ratio, advantage, epsilon_low=0.2, epsilon_high=0.28)
    assert got == pytest.approx(-advantage * ratio if moves else 0)
    clipped = not moves and advantage != 0
    assert output.metrics["clipped_high_tokens"] == int(clipped and advantage > 0)
    assert output.metrics["clipped_low_tokens"] == int(clipped and advantage < 0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(
    ("ratio", "weight"), [(0.5, 0.8), (0.9, 0.9), (1.2, 1.2), (1.29, 1.28), (50.0, 1.28)]
)
def test_cispo_bounds_the_weight_and_has_no_dead_zone(
    advantage: float, ratio: float, weight: float
) -> None:
    got, output = slope(cispo_loss, ratio, advantage, epsilon_low=0.2, epsilon_high=0.28)
    assert got == pytest.approx(-advantage * weight)
    assert output.metrics["clipped_low_tokens"] == int(ratio < 0.8)
    assert output.metrics["clipped_high_tokens"] == int(ratio > 1.28)


def test_an_epsilon_low_of_one_is_no_lower_bound_for_cispo() -> None:
    got, output = slope(cispo_loss, 1e-3, 1.0, epsilon_low=1.0)
    assert got == pytest.approx(-1e-3)
    assert output.metrics["clipped_low_tokens"] == 0


def test_dual_clip_bounds_what_grpo_lets_grow() -> None:
    free, _ = slope(grpo_loss, 1000.0, -1.0)
    bounded, output = slope(dual_clip_loss, 1000.0, -1.0)
    assert free == pytest.approx(1000) and bounded == 0
    assert output.loss.item() == pytest.approx(3)
    assert output.metrics["clipped_high_tokens"] == 1
    wider, _ = slope(dual_clip_loss, 1000.0, -1.0, ratio_cap=1e4)
    assert wider == pytest.approx(1000)
    with pytest.raises(ConfigError, match="ratio_cap must be > 1, got 1"):
        slope(dual_clip_loss, 1.0, 1.0, ratio_cap=1.0)


@given(ragged_batches(), aggregations)
def test_dual_clip_with_an_infinite_cap_is_grpo(batch: Batch, how: Aggregation) -> None:
    weights = weights_of(batch, how)
    output, gradient = run(dual_clip_loss, batch, weights, ratio_cap=math.inf)
    expected, expected_gradient = run(grpo_loss, batch, weights)
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(gradient, expected_gradient)


@given(ragged_batches(), aggregations, epsilons, epsilons)
def test_gspo_of_single_tokens_is_grpo(
    batch: Batch, how: Aggregation, low: float, high: float
) -> None:
    single = Batch(
        batch.logprobs[:, :1],
        batch.old_logprobs[:, :1],
        batch.ref_logprobs[:, :1],
        batch.advantages,
        batch.mask[:, :1],
    )
    weights = weights_of(single, how)
    settings = {"epsilon_low": low, "epsilon_high": high}
    output, gradient = run(gspo_loss, single, weights, **settings)
    expected, expected_gradient = run(grpo_loss, single, weights, **settings)
    assert_close(output.loss, expected.loss)
    assert_close(gradient, expected_gradient)


def test_gspo_clips_all_tokens_of_a_completion_or_none() -> None:
    logprobs = torch.tensor([[0.5, -0.1, -0.1], [0.5, -0.4, -0.4]], requires_grad=True)
    ones = torch.ones(2, 3)
    output = gspo_loss(
        logprobs,
        torch.zeros(2, 3),
        torch.ones(2),
        ones,
        completion_mask=ones,
        epsilon_high=0.05,
        epsilon_low=0.05,
    )
    output.loss.backward()
    assert logprobs.grad is not None
    assert (logprobs.grad[0] == 0).all() and (logprobs.grad[1] != 0).all()
    assert output.metrics["clipped_high_tokens"] == 3
    assert logprobs.grad[1].tolist() == pytest.approx([-math.exp(-0.1)] * 3)


def test_every_loss_is_registered() -> None:
    registered = load_plugins(PluginSources(use_entry_points=False)).losses
    assert set(LOSSES) <= {item.load() for item in registered}
