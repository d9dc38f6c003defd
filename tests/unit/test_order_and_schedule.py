"""Which prompts a step sees, and at what learning rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import TrainerConfig
from grpo_core.training.optimizer import learning_rate
from grpo_core.training.prompt_order import EpochOrder


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5))
def test_each_epoch_visits_every_prompt_once(size: int, per_step: int, seed: int) -> None:
    source = EpochOrder(size, seed)
    visited = [i for _ in range(-(-3 * size // per_step)) for i in source.draw(per_step)]
    for epoch in range(3):
        assert sorted(visited[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=9), st.data())
def test_the_order_goes_on_from_its_state(
    size: int, counts: list[int], data: st.DataObject
) -> None:
    source = EpochOrder(size, seed=3)
    stop = data.draw(st.integers(0, len(counts) - 1))
    for count in counts[:stop]:
        source.draw(count)
    resumed = EpochOrder(size, 3, source.state()["position"])
    for count in counts[stop:]:
        assert source.draw(count) == resumed.draw(count)


def test_epochs_and_seeds_have_different_orders() -> None:
    source = EpochOrder(50, 0)
    first, second = source.draw(50), source.draw(50)
    assert first != second
    assert first != EpochOrder(50, 1).draw(50)


@given(st.integers(1, 60), st.integers(0, 20), st.sampled_from(["constant", "linear", "cosine"]))
def test_the_rate_is_positive_and_never_above_its_setting(
    steps: int, warmup: int, schedule: str
) -> None:
    config = TrainerConfig(steps=steps, warmup_steps=warmup, schedule=schedule, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    if schedule != "constant":
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_known_rates() -> None:
    config = TrainerConfig(steps=10, warmup_steps=2, schedule="linear", learning_rate=3.0)
    assert [learning_rate(config, step) for step in (1, 2, 3)] == [1.0, 2.0, 3.0]
    assert learning_rate(config, 7) == pytest.approx(1.5)
    cosine = TrainerConfig(steps=10, warmup_steps=2, schedule="cosine", learning_rate=3.0)
    assert learning_rate(cosine, 7) == pytest.approx(1.5)
