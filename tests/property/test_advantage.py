from __future__ import annotations

import math
import statistics
from functools import reduce
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.advantage import SCALES, Scale, group_advantages, zero_signal_groups
from grpo_core.errors import ConfigError, ShapeError
from strategies import bool_matrices, reward_groups

scales = st.sampled_from(["std", "none"])
ddofs = st.sampled_from([0, 1])


def oracle(rewards: list[float], valid: list[bool], scale: str, ddof: int) -> list[float]:
    """One group, by the formula, with the statistics of the standard library."""
    kept = [reward for reward, counts in zip(rewards, valid, strict=True) if counts]
    if len(set(kept)) < 2:
        return [0.0] * len(rewards)
    deviation = 1.0
    if scale == "std":
        deviation = statistics.pstdev(kept) if ddof == 0 else statistics.stdev(kept)
    return [
        (reward - statistics.fmean(kept)) / deviation if counts else 0.0
        for reward, counts in zip(rewards, valid, strict=True)
    ]


@given(st.data(), scales, ddofs)
def test_equals_the_formula_in_plain_python(data: st.DataObject, scale: Scale, ddof: int) -> None:
    rewards = data.draw(reward_groups())
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    expected = [
        oracle(group, counts, scale, ddof)
        for group, counts in zip(rewards.tolist(), valid.tolist(), strict=True)
    ]
    got = group_advantages(rewards, valid, scale=scale, ddof=ddof)
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0.9, 0.7, 0.4, 0.2], [1.300, 0.557, -0.557, -1.300]),
        ([0.9, 0.7, 0.4, 0.8], [1.069, 0.000, -1.604, 0.535]),
    ],
)
def test_worked_examples_of_the_source_by_its_formula(
    rewards: list[float], expected: list[float]
) -> None:
    got = group_advantages(torch.tensor([rewards]))
    assert_close(got, torch.tensor([expected]), rtol=0, atol=5e-4)


@given(reward_groups(dtype=torch.float32), scales, ddofs)
def test_each_group_sums_to_zero(rewards: torch.Tensor, scale: Scale, ddof: int) -> None:
    advantages = group_advantages(rewards, scale=scale, ddof=ddof).double()
    size = advantages.abs().amax(-1).clamp(min=1)
    assert (advantages.sum(-1).abs() <= 1e-6 * rewards.shape[1] * size).all()


@given(reward_groups())
def test_scaled_advantages_are_bounded_and_have_deviation_one(rewards: torch.Tensor) -> None:
    advantages = group_advantages(rewards)
    assert (advantages.abs() <= math.sqrt(rewards.shape[1] - 1) + 1e-9).all()
    deviation = advantages.square().mean(-1).sqrt()
    assert_close(deviation, (~zero_signal_groups(rewards)).double(), rtol=1e-9, atol=1e-9)


@given(st.integers(2, 64))
def test_the_bound_is_met_by_a_single_success(group_size: int) -> None:
    rewards = torch.zeros(1, group_size, dtype=torch.float64)
    rewards[0, 0] = 1
    best = group_advantages(rewards)[0, 0].item()
    assert best == pytest.approx(math.sqrt(group_size - 1))


@given(reward_groups(), st.floats(-3, 3), scales)
def test_a_shift_changes_nothing(rewards: torch.Tensor, shift: float, scale: Scale) -> None:
    shifted = rewards + shift * rewards.abs().amax(-1, keepdim=True)
    before, after = (group_advantages(r, scale=scale) for r in (rewards, shifted))
    assert_close(after, before, rtol=1e-9, atol=1e-9 * float(before.abs().max() + 1))


@given(reward_groups(), st.floats(1e-3, 1e3), ddofs)
def test_a_positive_factor_cancels_only_when_scaled(
    rewards: torch.Tensor, factor: float, ddof: int
) -> None:
    scaled = group_advantages(rewards, ddof=ddof)
    assert_close(group_advantages(factor * rewards, ddof=ddof), scaled, rtol=1e-9, atol=1e-9)
    assert_close(group_advantages(-rewards, ddof=ddof), -scaled, rtol=1e-9, atol=1e-9)
    centred = group_advantages(rewards, scale="none")
    assert_close(group_advantages(factor * rewards, scale="none"), factor * centred)


@given(st.data(), scales)
def test_follows_permutations_of_completions_and_of_prompts(
    data: st.DataObject, scale: Scale
) -> None:
    rewards = data.draw(reward_groups())
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    rows = data.draw(st.permutations(range(rewards.shape[0])))
    columns = data.draw(st.permutations(range(rewards.shape[1])))
    expected = group_advantages(rewards, valid, scale=scale)[rows][:, columns]
    got = group_advantages(rewards[rows][:, columns], valid[rows][:, columns], scale=scale)
    assert_close(got, expected, rtol=1e-9, atol=1e-9)


@given(reward_groups(), scales)
def test_groups_do_not_see_each_other(rewards: torch.Tensor, scale: Scale) -> None:
    alone = [group_advantages(group.unsqueeze(0), scale=scale) for group in rewards]
    assert torch.equal(group_advantages(rewards, scale=scale), torch.cat(alone))


@given(
    st.floats(0.1, 10),
    st.integers(-30, 30),
    st.integers(2, 16),
    scales,
    ddofs,
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_constant_group_is_exactly_zero_at_any_magnitude(
    value: float, exponent: int, group_size: int, scale: Scale, ddof: int, dtype: torch.dtype
) -> None:
    for sign in (1, -1):
        rewards = torch.full((1, group_size), sign * value * 10.0**exponent, dtype=dtype)
        assert (group_advantages(rewards, scale=scale, ddof=ddof) == 0).all()
        assert zero_signal_groups(rewards).all()


@pytest.mark.parametrize(("reward", "group_size"), [(0.7, 8), (2.7, 12), (0.0, 4)])
def test_float32_residue_that_fooled_others_is_exactly_zero(reward: float, group_size: int) -> None:
    assert (group_advantages(torch.full((1, group_size), reward)) == 0).all()


def totals_in_every_order(parts: list[float], dtype: torch.dtype) -> torch.Tensor:
    """[1, G] the same sum, rounded in every way its order allows."""
    totals = [reduce(torch.add, order) for order in permutations(torch.tensor(parts, dtype=dtype))]
    return torch.stack(totals).unsqueeze(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_residue_of_rounding_is_no_signal(dtype: torch.dtype) -> None:
    rewards = totals_in_every_order([0.1, 0.7, 0.15, 0.3], dtype)
    assert len(rewards.unique()) > 1, "the example must hold a residue"
    assert (group_advantages(rewards) == 0).all()


@given(
    st.lists(st.floats(0.05, 1), min_size=2, max_size=4),
    st.integers(-30, 30),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_total_is_one_reward_whatever_the_order_of_its_parts(
    parts: list[float], exponent: int, dtype: torch.dtype
) -> None:
    rewards = totals_in_every_order([part * 10.0**exponent for part in parts], dtype)
    assert (group_advantages(rewards) == 0).all()


@pytest.mark.parametrize(
    ("rewards", "dtype"),
    [
        ([1.0, 1.001, 0.999], torch.float32),
        ([1.0, 1.0 + 2e-6], torch.float32),
        ([1e-8, 2e-8], torch.float32),
        ([1e-38, 2e-38], torch.float32),
        ([1e38, 3e38], torch.float32),
        ([0.0, 1e-30], torch.float32),
        ([1e-300, 3e-300], torch.float64),
        ([-1e307, 1e307], torch.float64),
        ([1.0, 1.0 + 1e-14], torch.float64),
        ([0.9, 1.0], torch.bfloat16),
        ([0.99, 1.0], torch.float16),
    ],
)
def test_rewards_that_truly_differ_keep_their_signal(
    rewards: list[float], dtype: torch.dtype
) -> None:
    group = torch.tensor([rewards], dtype=dtype)
    advantages = group_advantages(group)
    assert advantages.isfinite().all()
    assert advantages[0].argmax() == group[0].argmax()
    assert advantages.double().square().mean().item() == pytest.approx(1, rel=0.02)
    assert not zero_signal_groups(group).any()


@given(st.data(), scales, st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_invalid_completions_are_as_if_never_sampled(
    data: st.DataObject, scale: Scale, junk: float
) -> None:
    rewards = data.draw(reward_groups(min_group=3))[:1]
    valid = data.draw(bool_matrices(tuple(rewards.shape)).filter(lambda mask: mask.sum() >= 2))
    advantages = group_advantages(rewards.masked_fill(~valid, junk), valid, scale=scale)
    assert (advantages[~valid] == 0).all()
    alone = group_advantages(rewards[valid].unsqueeze(0), scale=scale)
    assert_close(advantages[valid].unsqueeze(0), alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reward", [0.7, -0.7])
def test_what_stands_in_for_invalid_rewards_is_no_signal(reward: float) -> None:
    valid = [[True, True, False]]
    assert (group_advantages([[reward, reward, 0.0]], valid) == 0).all()


def test_float32_rewards_are_computed_in_float64() -> None:
    rewards = torch.tensor([[1000.0, 1000.0625, 1000.25, 999.9375, 1000.5]])
    for scale in SCALES:
        exact = group_advantages(rewards.double(), scale=scale).float()
        assert torch.equal(group_advantages(rewards, scale=scale), exact)


@pytest.mark.parametrize("num_valid", [0, 1])
@pytest.mark.parametrize("ddof", [0, 1])
def test_fewer_than_two_valid_completions_give_no_signal(num_valid: int, ddof: int) -> None:
    rewards = torch.tensor([[0.2, 0.9, math.nan], [0.0, 1.0, 1.0]])
    valid = torch.tensor([[i < num_valid for i in range(3)], [True] * 3])
    advantages = group_advantages(rewards, valid, ddof=ddof)
    assert (advantages[0] == 0).all()
    assert advantages[1].abs().min() > 0
    assert zero_signal_groups(rewards, valid).tolist() == [True, False]


@given(st.data(), scales, ddofs)
def test_zero_signal_groups_are_those_without_advantage(
    data: st.DataObject, scale: Scale, ddof: int
) -> None:
    rewards = data.draw(reward_groups(dtype=torch.float32))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    silent = (group_advantages(rewards, valid, scale=scale, ddof=ddof) == 0).all(-1)
    assert torch.equal(zero_signal_groups(rewards, valid), silent)


def test_a_group_of_one_is_a_zero_signal_group() -> None:
    assert zero_signal_groups([[0.5], [1.0]]).tolist() == [True, True]


def test_reads_lists_and_arrays_and_keeps_the_dtype() -> None:
    expected = [[1.0, -1.0]]
    read_only = np.array([[1.0, 0.0]])
    read_only.flags.writeable = False
    for given_rewards, dtype in (
        ([[1.0, 0.0]], torch.float32),
        ([[1, 0]], torch.float32),
        ([[True, False]], torch.float32),
        (read_only, torch.float64),
        (np.array([[1, 0]], dtype=np.float32), torch.float32),
        (torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), torch.bfloat16),
        (torch.tensor([[1, 0]]), torch.float32),
    ):
        advantages = group_advantages(given_rewards)
        assert advantages.dtype == dtype
        assert advantages.tolist() == expected
    for valid in ([[True, True]], [[1, 1]], np.array([[True, True]])):
        assert group_advantages([[1.0, 0.0]], valid).tolist() == expected


def test_neither_changes_its_input_nor_passes_a_gradient() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.5]], requires_grad=True)
    before = rewards.detach().clone()
    assert not group_advantages(rewards).requires_grad
    assert torch.equal(rewards.detach(), before)


def test_no_prompts_give_no_advantages() -> None:
    assert group_advantages(torch.zeros(0, 4)).shape == (0, 4)
    assert zero_signal_groups(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("scale", ["std", "none"])
def test_a_group_of_one_is_refused(scale: Scale) -> None:
    with pytest.raises(ShapeError, match=r"group_size must be >= 2, got 1: .*Set grpo\.group_size"):
        group_advantages(torch.zeros(3, 1), scale=scale)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_a_valid_reward_that_is_not_finite_is_refused_with_its_place(junk: float) -> None:
    rewards = torch.zeros(3, 4)
    rewards[1, 2] = junk
    for function in (group_advantages, zero_signal_groups):
        with pytest.raises(ShapeError, match=r"got -?(nan|inf) at prompt 1, completion 2"):
            function(rewards)


@pytest.mark.parametrize(
    ("rewards", "valid", "message"),
    [
        (torch.zeros(4), None, r"rewards must be \[P, G\] .*got \[4\]"),
        (torch.zeros(2, 2, 2), None, r"got \[2, 2, 2\]"),
        (torch.zeros(2, 0), None, r"got \[2, 0\]"),
        ([[1.0, 0.0], [1.0]], None, "rectangle"),
        ([[1.0, None]], None, "rectangle"),
        (torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool), r"\[2, 3\], got \[3, 2\]"),
        (torch.zeros(2, 3), torch.full((2, 3), 0.5), "valid must hold 0 and 1 only, got 0.5"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(rewards: object, valid: object, message: str) -> None:
    for function in (group_advantages, zero_signal_groups):
        with pytest.raises(ShapeError, match=message):
            function(rewards, valid)


def test_settings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown advantage scale 'sdt'.*Available: none, std"):
        group_advantages(torch.zeros(1, 2), scale="sdt")
    for ddof in (2, -1, 0.5):
        with pytest.raises(ConfigError, match="ddof must be 0 or 1, got"):
            group_advantages(torch.zeros(1, 2), ddof=ddof)
