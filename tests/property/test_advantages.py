"""Laws of the advantage estimators beside the default one, each against plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.advantage import group_advantages, mean_advantages, zero_signal_groups
from grpo_core.advantages.batch import (
    batch_advantages,
    reinforce_pp_advantages,
    reinforce_pp_baseline_advantages,
)
from grpo_core.advantages.kl_penalty import subtract_kl
from grpo_core.advantages.leave_one_out import leave_one_out_advantages
from grpo_core.advantages.pass_at_k import (
    pass_at_2_advantages,
    pass_at_4_advantages,
    pass_at_8_advantages,
    pass_at_k_advantages,
)
from grpo_core.advantages.process import is_for_steps
from grpo_core.advantages.robust import robust_advantages
from grpo_core.advantages.trl import trl_advantages, trl_batch_advantages
from grpo_core.errors import ConfigError, ShapeError
from grpo_core.plugin_manager import PluginSources, load_plugins
from strategies import bool_matrices, reward_groups

Estimator = Callable[..., torch.Tensor]
Table = list[list[float]]
Flags = list[list[bool]]

ALONE: list[Estimator] = [  # a group sees itself only
    group_advantages,
    mean_advantages,
    leave_one_out_advantages,
    robust_advantages,
    pass_at_2_advantages,
    trl_advantages,
]
RELATIVE: list[Estimator] = [  # the baseline is the group's
    *ALONE,
    batch_advantages,
    reinforce_pp_baseline_advantages,
    trl_batch_advantages,
]
ALL: list[Estimator] = [*RELATIVE, reinforce_pp_advantages]
SCALED: list[Estimator] = [  # the unit of the reward cancels
    group_advantages,
    robust_advantages,
    pass_at_2_advantages,
    batch_advantages,
    reinforce_pp_advantages,
    reinforce_pp_baseline_advantages,
]
LINEAR: list[Estimator] = [mean_advantages, leave_one_out_advantages]
ZERO_SUM: list[Estimator] = [item for item in RELATIVE if item is not robust_advantages]


def named(estimators: list[Estimator]) -> pytest.MarkDecorator:
    ids = [item.__name__.removesuffix("_advantages") for item in estimators]
    return pytest.mark.parametrize("estimate", estimators, ids=ids)


# ---- plain Python ------------------------------------------------------------------------------


def kept(row: list[float], flags: list[bool]) -> list[float]:
    return [reward for reward, counts in zip(row, flags, strict=True) if counts]


def per_group(rewards: Table, valid: Flags, formula: Callable[[list[float], int], float]) -> Table:
    """`formula(valid rewards, place among them)` for each valid completion of a varied group."""
    table = []
    for row, flags in zip(rewards, valid, strict=True):
        group = kept(row, flags)
        places = iter(range(len(group)))
        varied = len(set(group)) > 1
        table.append(
            [formula(group, next(places)) if counts and varied else 0.0 for counts in flags]
        )
    return table


def others_mean(group: list[float], at: int) -> float:
    return group[at] - statistics.fmean(group[:at] + group[at + 1 :])


def robust_oracle(group: list[float], at: int) -> float:
    middle = statistics.median(group)
    spread = 1.4826 * statistics.median(abs(reward - middle) for reward in group)
    if spread == 0:
        spread = math.sqrt(statistics.fmean((reward - middle) ** 2 for reward in group))
    bound = math.sqrt(len(group) - 1)
    return min(max((group[at] - middle) / spread, -bound), bound)


def best_of_k_oracle(k: int) -> Callable[[list[float], int], float]:
    """By listing every subset."""

    def formula(group: list[float], at: int) -> float:
        subsets = list(combinations(range(len(group)), k))
        best = [max(group[i] for i in subset) for subset in subsets]
        if len(set(best)) < 2:
            return 0.0
        own = [value for value, subset in zip(best, subsets, strict=True) if at in subset]
        return (statistics.fmean(own) - statistics.fmean(best)) / statistics.pstdev(best)

    return formula


def trl_oracle(group: list[float], at: int) -> float:
    return (group[at] - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4)


def over_the_batch(
    rewards: Table, valid: Flags, scale: Callable[[list[float], list[float]], float]
) -> Table:
    """r - mean of the group, over `scale(all rewards, all r - mean of the group)`."""
    groups = [kept(row, flags) for row, flags in zip(rewards, valid, strict=True)]
    everything = [reward for group in groups for reward in group]
    centred = [reward - statistics.fmean(group) for group in groups for reward in group]
    if all(len(set(group)) < 2 for group in groups):
        return per_group(rewards, valid, lambda group, at: 0.0)
    size = scale(everything, centred)
    return per_group(rewards, valid, lambda group, at: (group[at] - statistics.fmean(group)) / size)


def reinforce_pp_oracle(rewards: Table, valid: Flags) -> Table:
    everything = [r for row, flags in zip(rewards, valid, strict=True) for r in kept(row, flags)]
    if len(set(everything)) < 2:
        return [[0.0] * len(row) for row in rewards]
    mean, deviation = statistics.fmean(everything), statistics.pstdev(everything)
    return [
        [(r - mean) / deviation if counts else 0.0 for r, counts in zip(row, flags, strict=True)]
        for row, flags in zip(rewards, valid, strict=True)
    ]


ORACLES: list[tuple[Estimator, Callable[[Table, Flags], Table]]] = [
    (leave_one_out_advantages, lambda r, v: per_group(r, v, others_mean)),
    (robust_advantages, lambda r, v: per_group(r, v, robust_oracle)),
    (trl_advantages, lambda r, v: per_group(r, v, trl_oracle)),
    (batch_advantages, lambda r, v: over_the_batch(r, v, lambda a, c: statistics.pstdev(a))),
    (
        trl_batch_advantages,
        lambda r, v: over_the_batch(r, v, lambda a, c: statistics.stdev(a) + 1e-4),
    ),
    (
        reinforce_pp_baseline_advantages,
        lambda r, v: over_the_batch(r, v, lambda a, c: statistics.pstdev(c)),
    ),
    (reinforce_pp_advantages, reinforce_pp_oracle),
]


@pytest.mark.parametrize(("estimate", "oracle"), ORACLES, ids=[o[0].__name__ for o in ORACLES])
@given(data=st.data())
def test_equals_the_formula_in_plain_python(
    estimate: Estimator, oracle: Callable[[Table, Flags], Table], data: st.DataObject
) -> None:
    rewards = data.draw(reward_groups())
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    expected = torch.tensor(oracle(rewards.tolist(), valid.tolist()), dtype=torch.float64)
    assert_close(estimate(rewards, valid), expected, rtol=1e-8, atol=1e-8)


@given(st.data(), st.integers(1, 6))
def test_pass_at_k_equals_listing_every_subset(data: st.DataObject, k: int) -> None:
    rewards = data.draw(reward_groups(min_group=k + 1, max_group=8))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    table, flags = rewards.tolist(), valid.tolist()
    enough = [row if sum(row) > k else [False] * len(row) for row in flags]
    expected = per_group(table, enough, best_of_k_oracle(k))
    got = pass_at_k_advantages(rewards, valid, k=k)
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-8)


@given(st.integers(1, 6), st.integers(0, 12), st.integers(0, 12))
def test_pass_at_k_is_the_closed_form_of_the_paper(k: int, right: int, wrong: int) -> None:
    n = right + wrong
    assume(n > k)
    rewards = torch.tensor([[1.0] * right + [0.0] * wrong], dtype=torch.float64)
    got = pass_at_k_advantages(rewards, k=k)[0]
    mean = 1 - math.comb(wrong, k) / math.comb(n, k)
    if not 0 < mean < 1:
        assert (got == 0).all()
        return
    sigma = math.sqrt(mean * (1 - mean))
    for_right = (1 - mean) / sigma
    for_wrong = (1 - mean - math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)) / sigma
    expected = [for_right] * right + [for_wrong] * wrong
    assert got.tolist() == pytest.approx(expected, abs=1e-9)


@given(reward_groups())
def test_pass_at_1_is_the_default_advantage(rewards: torch.Tensor) -> None:
    expected = group_advantages(rewards)
    assert_close(pass_at_k_advantages(rewards, k=1), expected, rtol=1e-9, atol=1e-9)


@given(st.data(), st.integers(1, 4))
def test_pass_at_k_is_bounded(data: st.DataObject, k: int) -> None:
    rewards = data.draw(reward_groups(min_group=k + 1))
    bound = math.sqrt(rewards.shape[1] / k - 1)
    assert (pass_at_k_advantages(rewards, k=k).abs() <= bound + 1e-9).all()


# ---- laws --------------------------------------------------------------------------------------


@named(ALL)
@given(data=st.data(), junk=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]))
def test_invalid_completions_get_zero_and_change_nothing(
    estimate: Estimator, data: st.DataObject, junk: float
) -> None:
    rewards = data.draw(reward_groups(min_group=4))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    dirty = estimate(rewards.masked_fill(~valid, junk), valid)
    assert (dirty[~valid] == 0).all()
    assert dirty.isfinite().all()
    assert torch.equal(dirty, estimate(rewards.masked_fill(~valid, 0.5), valid))


@named(RELATIVE)
@given(data=st.data())
def test_groups_without_signal_are_exactly_zero(estimate: Estimator, data: st.DataObject) -> None:
    rewards = data.draw(reward_groups(min_group=3, dtype=torch.float32))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    silent = zero_signal_groups(rewards, valid)
    assert (estimate(rewards, valid)[silent] == 0).all()


@named(ALL)
@given(
    value=st.floats(0.1, 10),
    exponent=st.integers(-30, 30),
    size=st.integers(3, 16),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equal_rewards_are_exactly_zero_at_any_magnitude(
    estimate: Estimator, value: float, exponent: int, size: int, dtype: torch.dtype
) -> None:
    for sign in (1, -1):
        rewards = torch.full((2, size), sign * value * 10.0**exponent, dtype=dtype)
        assert (estimate(rewards) == 0).all()


@named(ZERO_SUM)
@given(data=st.data())
def test_each_group_sums_to_zero(estimate: Estimator, data: st.DataObject) -> None:
    rewards = data.draw(reward_groups(min_group=3))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    advantages = estimate(rewards, valid)
    size = advantages.abs().amax(-1).clamp(min=1)
    assert (advantages.sum(-1).abs() <= 1e-9 * rewards.shape[1] * size).all()


@named(ALL)
@given(data=st.data(), shift=st.floats(-3, 3))
def test_a_shift_changes_nothing(estimate: Estimator, data: st.DataObject, shift: float) -> None:
    rewards = data.draw(reward_groups(min_group=3))
    before, after = estimate(rewards), estimate(rewards + shift * rewards.abs().amax())
    assert_close(after, before, rtol=1e-8, atol=1e-8 * float(before.abs().max() + 1))


@named(SCALED)
@given(rewards=reward_groups(min_group=3), factor=st.floats(1e-3, 1e3))
def test_a_positive_factor_cancels(
    estimate: Estimator, rewards: torch.Tensor, factor: float
) -> None:
    assert_close(estimate(factor * rewards), estimate(rewards), rtol=1e-8, atol=1e-8)


@named(LINEAR)
@given(rewards=reward_groups(min_group=3), factor=st.floats(-1e3, 1e3))
def test_unscaled_advantages_are_linear(
    estimate: Estimator, rewards: torch.Tensor, factor: float
) -> None:
    assert_close(estimate(factor * rewards), factor * estimate(rewards), rtol=1e-8, atol=1e-8)


@named([item for item in [*SCALED, *LINEAR] if item is not pass_at_2_advantages])
@given(rewards=reward_groups(min_group=3))
def test_opposite_rewards_have_opposite_advantages(
    estimate: Estimator, rewards: torch.Tensor
) -> None:
    assert_close(estimate(-rewards), -estimate(rewards), rtol=1e-8, atol=1e-8)


@named(ALL)
@given(data=st.data())
def test_follows_permutations_of_completions_and_of_prompts(
    estimate: Estimator, data: st.DataObject
) -> None:
    rewards = data.draw(reward_groups(min_group=3))
    valid = data.draw(bool_matrices(tuple(rewards.shape)))
    rows = data.draw(st.permutations(range(rewards.shape[0])))
    columns = data.draw(st.permutations(range(rewards.shape[1])))
    expected = estimate(rewards, valid)[rows][:, columns]
    got = estimate(rewards[rows][:, columns], valid[rows][:, columns])
    assert_close(got, expected, rtol=1e-8, atol=1e-8)


@named(ALONE)
@given(rewards=reward_groups(min_group=3))
def test_groups_do_not_see_each_other(estimate: Estimator, rewards: torch.Tensor) -> None:
    alone = [estimate(group.unsqueeze(0)) for group in rewards]
    assert torch.equal(estimate(rewards), torch.cat(alone))


@named(ALL)
@given(rewards=reward_groups(min_group=3))
def test_a_better_reward_never_has_a_smaller_advantage(
    estimate: Estimator, rewards: torch.Tensor
) -> None:
    order = rewards.argsort(-1)
    rising = estimate(rewards).gather(-1, order).diff(dim=-1)
    assert (rising >= -1e-9).all()


@named(ALL)
def test_keeps_the_dtype_reads_lists_and_passes_no_gradient(estimate: Estimator) -> None:
    table = [[1.0, 0.0, 0.5, 0.25]]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        rewards = torch.tensor(table, dtype=dtype, requires_grad=True)
        advantages = estimate(rewards)
        assert advantages.dtype == dtype and not advantages.requires_grad
    assert torch.equal(estimate(table), estimate(torch.tensor(table)))
    assert estimate(torch.zeros(0, 4)).shape == (0, 4)
    assert (estimate(torch.rand(2, 4), torch.zeros(2, 4)) == 0).all()


@named(ALL)
def test_float32_rewards_are_computed_in_float64(estimate: Estimator) -> None:
    rewards = torch.tensor([[1000.0, 1000.0625, 1000.25, 999.9375, 1000.5]])
    assert torch.equal(estimate(rewards), estimate(rewards.double()).float())


@named(ALL)
def test_rewards_at_the_ends_of_the_range_stay_finite(estimate: Estimator) -> None:
    for rewards in ([1e37, 3e37, 2e37], [1e-38, 2e-38, 3e-38], [-1e38, 1e38, 0.0]):
        advantages = estimate(torch.tensor([rewards]))
        assert advantages.isfinite().all()
        best = rewards.index(max(rewards))
        assert advantages[0].argmax() == best or (advantages == 0).all()


@named([item for item in RELATIVE if item is not pass_at_2_advantages])
def test_a_group_of_one_is_refused(estimate: Estimator) -> None:
    with pytest.raises(ShapeError, match=r"group_size must be >= 2, got 1: .*Set grpo\.group_size"):
        estimate(torch.zeros(3, 1))


def test_without_groups_a_group_of_one_is_fine() -> None:
    got = reinforce_pp_advantages([[1.0], [0.0]])
    assert got.tolist() == [[1.0], [-1.0]]


@named(ALL)
def test_rewards_that_are_not_finite_are_refused(estimate: Estimator) -> None:
    rewards = torch.zeros(2, 4)
    rewards[1, 2] = math.nan
    with pytest.raises(ShapeError, match="got nan at prompt 1, completion 2"):
        estimate(rewards)


# ---- what each is for --------------------------------------------------------------------------


@given(st.integers(2, 12), st.data())
def test_leave_one_out_is_the_mean_advantage_up_to_a_factor(size: int, data: st.DataObject) -> None:
    rewards = data.draw(reward_groups(min_group=size, max_group=size))
    expected = mean_advantages(rewards) * size / (size - 1)
    assert_close(leave_one_out_advantages(rewards), expected, rtol=1e-9, atol=1e-12)


@given(reward_groups(min_group=3))
def test_the_batch_as_one_group_gives_the_default_advantage(rewards: torch.Tensor) -> None:
    one_group = rewards.reshape(1, -1)
    expected = group_advantages(one_group).reshape(rewards.shape)
    assert_close(reinforce_pp_advantages(rewards), expected, rtol=1e-8, atol=1e-8)
    for estimate in (batch_advantages, reinforce_pp_baseline_advantages):
        assert_close(estimate(one_group), group_advantages(one_group), rtol=1e-8, atol=1e-8)


@given(reward_groups(min_group=3))
def test_global_normalisation_has_mean_zero_and_deviation_one(rewards: torch.Tensor) -> None:
    for estimate in (reinforce_pp_advantages, reinforce_pp_baseline_advantages):
        advantages = estimate(rewards)
        if (advantages != 0).any():
            assert advantages.mean().item() == pytest.approx(0, abs=1e-9)
            assert advantages.square().mean().item() == pytest.approx(1, abs=1e-9)


def test_a_close_group_stays_quiet_beside_the_batch() -> None:
    rewards = [[0.0, 1.0, 0.0, 1.0], [0.5, 0.501, 0.5, 0.501]]
    assert group_advantages(rewards).abs().amax(-1).tolist() == pytest.approx([1, 1])
    for estimate in (batch_advantages, reinforce_pp_baseline_advantages):
        loud, quiet = estimate(rewards).abs().amax(-1).tolist()
        assert quiet == pytest.approx(loud / 1000, rel=1e-3)


@given(reward_groups())
def test_robust_advantages_are_bounded(rewards: torch.Tensor) -> None:
    bound = math.sqrt(rewards.shape[1] - 1)
    assert (robust_advantages(rewards).abs() <= bound).all()


@given(st.floats(2, 1e6), st.integers(5, 9))
def test_an_outlier_moves_nobody_else(outlier: float, size: int) -> None:
    common = [0.1 * i for i in range(size)]
    near, far = (
        robust_advantages(torch.tensor([[*common, value]], dtype=torch.float64))
        for value in (2.0, outlier)
    )
    assert_close(near[0, :-1], far[0, :-1], rtol=1e-6, atol=1e-6)
    squeezed = group_advantages([[*common, 1e6]])[0, :-1]
    assert squeezed.max() - squeezed.min() < 1e-4, "what it is there to prevent"


def test_a_residue_of_rounding_is_no_scale_for_robust_advantages() -> None:
    rewards = torch.tensor([[0.7, 0.7 + 6e-8, 0.7, 0.7 + 6e-8, 0.7 - 6e-8, 1.0]])
    advantages = robust_advantages(rewards)[0]
    assert advantages[:-1].abs().max() < 1e-5
    assert advantages[-1].item() == pytest.approx(math.sqrt(5))


@given(st.integers(3, 16))
def test_a_single_success_is_worth_as_much_as_by_default(size: int) -> None:
    rewards = torch.zeros(1, size, dtype=torch.float64)
    rewards[0, 0] = 1
    for estimate in (group_advantages, robust_advantages):
        assert estimate(rewards)[0, 0].item() == pytest.approx(math.sqrt(size - 1))


def test_pass_at_k_leaves_solved_prompts_alone() -> None:
    rare, solved = [1.0] + [0.0] * 7, [1.0] * 7 + [0.0]
    by_default = group_advantages([rare, solved]).abs().amax(-1)
    by_k = pass_at_4_advantages([rare, solved]).abs().amax(-1)
    assert by_default.min() > 2
    assert by_k[0] > 0.9 and by_k[1] == 0


def test_pass_at_k_refuses_groups_it_cannot_split() -> None:
    with pytest.raises(ShapeError, match=r"group_size must be > 8 for pass@8 .*got 8"):
        pass_at_8_advantages(torch.zeros(1, 8))
    with pytest.raises(ConfigError, match="k must be >= 1, got 0"):
        pass_at_k_advantages(torch.zeros(1, 8), k=0)


def test_the_epsilon_of_trl_depends_on_the_unit_of_the_reward() -> None:
    tiny = torch.tensor([[1e-4, 2e-4]], dtype=torch.float64)
    assert trl_advantages(10 * tiny).max() > 2 * trl_advantages(tiny).max()


# ---- KL ----------------------------------------------------------------------------------------


def test_the_exercise_of_the_source() -> None:
    """No completion changes its sign: 0.1 times the KLs is far below every advantage."""
    rewards = torch.tensor([[0.95, 0.88, 0.45, 0.42, 0.15]], dtype=torch.float64)
    kl = torch.tensor([[0.05, 0.12, 0.03, 0.02, 0.08]], dtype=torch.float64)
    mean = sum(rewards[0].tolist()) / 5
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards[0].tolist()) / 5)
    plain = group_advantages(rewards)
    penalised = subtract_kl(plain, kl, 0.1)
    expected = [
        (r - mean) / deviation - 0.1 * price
        for r, price in zip(rewards[0].tolist(), kl[0].tolist(), strict=True)
    ]
    assert penalised[0].tolist() == pytest.approx(expected)
    assert torch.equal(penalised.sign(), plain.sign())
    rounded = [1.256, 1.017, -0.401, -0.500, -1.402]
    assert penalised[0].tolist() == pytest.approx(rounded, abs=5e-4)


@given(st.data(), st.floats(0, 2))
def test_the_kl_is_subtracted_where_valid_only(data: st.DataObject, beta: float) -> None:
    values = data.draw(reward_groups())
    valid = data.draw(bool_matrices(tuple(values.shape)))
    kl = torch.rand(values.shape, dtype=torch.float64)
    got = subtract_kl(values, kl.masked_fill(~valid, math.nan), beta, valid)
    assert_close(got[valid], (values - beta * kl)[valid])
    assert torch.equal(got[~valid], values[~valid])


def test_the_kl_is_a_price_and_no_gradient() -> None:
    kl = torch.ones(1, 2, requires_grad=True)
    got = subtract_kl(torch.zeros(1, 2, dtype=torch.bfloat16), kl, 0.5)
    assert got.tolist() == [[-0.5, -0.5]]
    assert got.dtype == torch.bfloat16 and not got.requires_grad


def test_wrong_kl_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"beta must be >= 0 and finite, got -0\.1"):
        subtract_kl(torch.zeros(1, 2), torch.zeros(1, 2), -0.1)
    with pytest.raises(ShapeError, match=r"one shape, got \[1, 2\], \[2\]"):
        subtract_kl(torch.zeros(1, 2), torch.zeros(2), 0.1)


# ---- names -------------------------------------------------------------------------------------


def test_every_estimator_is_registered_and_keeps_the_contract() -> None:
    registered = load_plugins(PluginSources(use_entry_points=False)).advantages
    every = {item.name: item.load() for item in registered}
    functions = {name: function for name, function in every.items() if not is_for_steps(function)}
    assert [name for name in every if name not in functions] == ["process"]
    assert set(ALL) | {pass_at_4_advantages, pass_at_8_advantages} <= set(functions.values())
    rewards, valid = torch.rand(3, 12), torch.rand(3, 12) < 0.8
    for name, function in functions.items():
        advantages = function(rewards, valid)
        assert advantages.shape == rewards.shape, name
        assert advantages.isfinite().all() and (advantages[~valid] == 0).all(), name
