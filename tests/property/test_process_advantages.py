"""Laws of process supervision: rewards of steps become advantages of tokens."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from grpo_core.advantages.process import at_tokens, process_advantages
from grpo_core.config import ShaperConfig, VerifierConfig
from grpo_core.errors import ConfigError, DataError, PluginError, ShapeError
from grpo_core.rollout import with_advantages
from grpo_core.step_advantages import StepEstimator, bind_estimator, require_steps
from grpo_core.types import (
    Completion,
    Prompt,
    Rollout,
    RolloutGroup,
    Status,
    StepScore,
    Verdict,
)

Rewards = list[list[list[float]]]  # [P][G][S of each completion]
# Numbers that are exact in float32, so that equal ones stay equal.
values = st.integers(-8, 8).map(lambda number: number / 8)
completions = st.lists(values, max_size=4)
rewards = st.integers(2, 4).flatmap(
    lambda size: st.lists(
        st.lists(completions, min_size=size, max_size=size), min_size=1, max_size=3
    )
)


def padded(ragged: Rewards) -> tuple[torch.Tensor, torch.Tensor]:
    most = max(1, *(len(steps) for group in ragged for steps in group))
    shape = (len(ragged), len(ragged[0]), most)
    given, valid = torch.full(shape, math.nan, dtype=torch.float64), torch.zeros(shape).bool()
    for p, group in enumerate(ragged):
        for g, steps in enumerate(group):
            given[p, g, : len(steps)] = torch.tensor(steps, dtype=torch.float64)
            valid[p, g, : len(steps)] = True
    return given, valid


def ours(ragged: Rewards) -> Rewards:
    advantages = process_advantages(*padded(ragged)).tolist()
    return [
        [line[: len(steps)] for line, steps in zip(lines, group, strict=True)]
        for lines, group in zip(advantages, ragged, strict=True)
    ]


def oracle(ragged: Rewards) -> Rewards:
    """The formula of the paper, in loops."""
    result = []
    for group in ragged:
        pool = [reward for steps in group for reward in steps]
        rivals = sum(bool(steps) for steps in group)
        level = len(set(pool)) < 2 or rivals < 2
        mean, deviation = (0.0, 1.0) if level else (statistics.fmean(pool), statistics.pstdev(pool))
        rows = []
        for steps in group:
            row = []
            for j in range(len(steps)):
                later = 0.0
                for k in range(j, len(steps)):
                    later += 0.0 if level else (steps[k] - mean) / deviation
                row.append(later)
            rows.append(row)
        result.append(rows)
    return result


def close(one: Rewards, other: Rewards) -> None:
    flat, wanted = ([x for g in r for s in g for x in s] for r in (one, other))
    assert flat == pytest.approx(wanted, abs=1e-9)


# ---- the estimator -------------------------------------------------------------------------------


@given(rewards)
def test_equals_the_formula_in_plain_python(ragged: Rewards) -> None:
    close(ours(ragged), oracle(ragged))


def test_a_worked_example() -> None:
    """Mean 0.5, deviation 0.5: normalised rewards are 1 and -1."""
    assert ours([[[1.0, 0.0, 1.0], [0.0]]]) == [[[1.0, 0.0, 1.0], [-1.0]]]


@given(rewards, st.randoms(use_true_random=False))
def test_follows_a_permutation_of_completions(ragged: Rewards, random: object) -> None:
    order = list(range(len(ragged[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = ours([[group[at] for at in order] for group in ragged])
    close(moved, [[group[at] for at in order] for group in ours(ragged)])


@given(rewards, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_unit_and_zero_of_rewards_cancel(ragged: Rewards, unit: float, zero: float) -> None:
    moved = [[[unit * x + zero for x in steps] for steps in group] for group in ragged]
    expected = oracle(ragged)
    for got_group, group in zip(ours(moved), expected, strict=True):
        for got, steps in zip(got_group, group, strict=True):
            assert got == pytest.approx(steps, abs=1e-6)


@given(st.integers(2, 5), st.integers(1, 5), st.floats(-1e6, 1e6, width=32), st.booleans())
def test_a_constant_group_is_exactly_zero(size: int, steps: int, value: float, noisy: bool) -> None:
    given = torch.full((1, size, steps), value, dtype=torch.float32)
    if noisy and abs(value) > 1e-30:
        given[0, 0, 0] = torch.nextafter(given[0, 0, 0], torch.tensor(math.inf))
    assert (process_advantages(given) == 0).all()


@given(completions.filter(bool), st.integers(1, 3))
def test_a_single_valid_completion_has_no_rivals(steps: list[float], others: int) -> None:
    assert ours([[steps, *[[]] * others]]) == [[[0.0] * len(steps), *[[]] * others]]


@given(rewards)
def test_first_steps_of_a_group_add_up_to_zero(ragged: Rewards) -> None:
    """They hold all normalised rewards, whose mean is 0."""
    for group in ours(ragged):
        assert sum(steps[0] for steps in group if steps) == pytest.approx(0, abs=1e-9)


def test_wrong_shapes_are_refused() -> None:
    for bad in (torch.zeros(2, 3), torch.zeros(2, 1, 3), torch.zeros(2, 2, 0)):
        with pytest.raises(ShapeError, match=r"\[P, G, S\]"):
            process_advantages(bad)
    with pytest.raises(ShapeError, match="shape of rewards"):
        process_advantages(torch.zeros(1, 2, 3), torch.ones(1, 2, 2))
    with pytest.raises(ShapeError, match="finite"):
        process_advantages(torch.tensor([[[0.0, math.nan], [1.0, 0.0]]]))


def test_no_gradient_and_the_dtype_of_the_rewards() -> None:
    given = torch.rand(1, 2, 3, dtype=torch.bfloat16, requires_grad=True)
    advantages = process_advantages(given)
    assert advantages.dtype == torch.bfloat16 and not advantages.requires_grad
    assert process_advantages([[[0, 1], [1, 1]]]).dtype == torch.float32


# ---- tokens --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(values, st.integers(0, 9)), max_size=5), st.integers(0, 3))
def test_a_token_has_the_steps_that_end_at_or_after_it(
    steps: list[tuple[float, int]], more: int
) -> None:
    rewards = [reward for reward, _ in steps]
    lasts = sorted(last for _, last in steps)
    count = (lasts[-1] + 1 if lasts else 0) + more
    to_come = [sum(rewards[j:]) for j in range(len(steps))]
    expected = [
        sum(reward for reward, last in zip(rewards, lasts, strict=True) if last >= t)
        for t in range(count)
    ]
    assert at_tokens(to_come, lasts, count) == pytest.approx(expected)


# ---- groups of completions -----------------------------------------------------------------------


class Made(NamedTuple):
    """A completion: steps of two verifiers, as (last token, reward), and the whole's reward."""

    num_tokens: int
    first: list[tuple[int, float]]
    second: list[tuple[int, float]]
    outcome: float
    is_valid: bool


@st.composite
def made(draw: st.DrawFn) -> Made:
    count = draw(st.integers(0, 7))
    ends = (
        st.lists(st.integers(0, count - 1), unique=True, max_size=3).map(sorted)
        if count
        else st.just([])
    )
    score = st.integers(0, 8).map(lambda number: number / 8)
    first, second = ([(end, draw(score)) for end in draw(ends)] for _ in range(2))
    return Made(count, first, second, draw(score), draw(st.integers(0, 4)) > 0)


def verdict(steps: list[tuple[int, float]]) -> Verdict:
    """Three characters a token; a step ends somewhere in its last token."""
    if not steps:
        return Verdict.unparseable()
    scored = [StepScore(3 * at + 1 + at % 3, score) for at, score in steps]
    return Verdict(Status.WRONG, min(score for _, score in steps), steps=scored)


WEIGHTS = {"first": 0.5, "second": 2.0, "outcome": 1.0, "brief": -0.5}


def rollout(index: int, item: Made) -> Rollout:
    ends = tuple(3 * at + 3 for at in range(item.num_tokens))
    ids = tuple(range(5, 5 + item.num_tokens))
    completion = Completion(
        ids, "abc" * item.num_tokens + "x", [0.0] * len(ids), "eos", index, token_ends=ends
    )
    if not item.is_valid:
        return Rollout(completion, {"first": verdict(item.first), "second": Verdict.error()})
    verdicts = {
        "outcome": Verdict.wrong(score=item.outcome),
        "first": verdict(item.first),
        "second": verdict(item.second),
    }
    components = {name: WEIGHTS[name] * float(found.score or 0) for name, found in verdicts.items()}
    components["brief"] = WEIGHTS["brief"] * item.num_tokens / 8
    return Rollout(completion, verdicts, components, sum(components.values()))


def group_of(items: Sequence[Made]) -> RolloutGroup:
    prompt = Prompt("p", ({"role": "user", "content": ""},), None)
    return RolloutGroup(prompt, (1,), tuple(rollout(at, item) for at, item in enumerate(items)))


def events(item: Made, names: list[str]) -> list[tuple[int, float]]:
    """(last token, reward) of all steps of all verifiers that score steps."""
    found = []
    for name in names:
        own = item.first if name == "first" else item.second
        found += [(at, WEIGHTS[name] * score) for at, score in own] or [(item.num_tokens - 1, 0.0)]
    return found


def expected_tokens(groups: list[list[Made]]) -> list[list[list[float]]]:
    """All of it in loops."""
    valid = [item for items in groups for item in items if item.is_valid]
    names = [n for n in ("first", "second") if any(getattr(item, n) for item in valid)]
    share = sum(WEIGHTS[name] for name in names) / sum(map(abs, WEIGHTS.values()))
    result = []
    for items in groups:
        rivals = [item for item in items if item.is_valid]
        pool = [reward for item in rivals for _, reward in events(item, names)]
        wholes = [whole(item, names) for item in rivals]
        rows = []
        for item in items:
            row = [0.0] * item.num_tokens
            for t in range(item.num_tokens):
                if not item.is_valid or len(rivals) < 2:
                    continue
                if len(set(pool)) > 1:
                    mean, deviation = statistics.fmean(pool), statistics.pstdev(pool)
                    for last, reward in events(item, names):
                        if last >= t:
                            row[t] += share * (reward - mean) / deviation
                if max(wholes) - min(wholes) > 1e-6:
                    mean, deviation = statistics.fmean(wholes), statistics.pstdev(wholes)
                    row[t] += (1 - share) * (whole(item, names) - mean) / deviation
            rows.append(row)
        result.append(rows)
    return result


def whole(item: Made, names: list[str]) -> float:
    """What was rewarded as a whole; a verifier without any steps scored 0."""
    return item.outcome * WEIGHTS["outcome"] + WEIGHTS["brief"] * item.num_tokens / 8


def estimator() -> StepEstimator:
    verifiers = [VerifierConfig(name=n, weight=WEIGHTS[n]) for n in ("outcome", "first", "second")]
    shapers = [ShaperConfig(name="brief", weight=WEIGHTS["brief"])]
    bound = bind_estimator(process_advantages, [*verifiers, *shapers])
    assert isinstance(bound, StepEstimator)
    return bound


@given(
    st.integers(2, 4).flatmap(
        lambda size: st.lists(
            st.lists(made(), min_size=size, max_size=size), min_size=1, max_size=2
        )
    )
)
@settings(max_examples=60)
def test_tokens_of_groups_equal_plain_loops(items: list[list[Made]]) -> None:
    weighed = with_advantages([group_of(row) for row in items], estimator())
    for group, rows in zip(weighed, expected_tokens(items), strict=True):
        for found, row in zip(group.rollouts, rows, strict=True):
            assert found.token_advantages == pytest.approx(row, abs=1e-5)
            assert found.advantage == pytest.approx(statistics.fmean(row) if row else 0.0, abs=1e-5)
            if not found.is_valid:
                assert not found.has_signal


def simple(scores: list[float], *, last: bool = True) -> Rollout:
    """A step a token; text of one character a token, and an end-of-sequence token."""
    count = len(scores)
    steps = [StepScore(at + 1, score) for at, score in enumerate(scores)]
    completion = Completion(
        tuple(range(count + 1)),
        "a" * count,
        [0.0] * (count + 1),
        "eos",
        token_ends=(*range(1, count + 1), count),
    )
    found = Verdict(Status.CORRECT, max(scores), steps=steps if last else steps[:-1])
    return Rollout(completion, {"prm": found}, {"prm": max(scores)}, max(scores))


def weigh(rollouts: list[Rollout], weights: dict[str, float] | None = None) -> list[Rollout]:
    group = RolloutGroup(Prompt("p", ({"role": "user", "content": ""},), None), (1,), rollouts)
    (weighed,) = StepEstimator(process_advantages, weights or {"prm": 1.0}).weigh([group])
    return list(weighed.rollouts)


def test_the_end_of_the_sequence_belongs_to_the_last_step() -> None:
    one, two = weigh([simple([1.0, 0.0]), simple([0.0, 1.0])])
    assert one.token_advantages == (0.0, -1.0, -1.0)
    assert two.token_advantages == (0.0, 1.0, 1.0)
    one, two = weigh([simple([1.0, 0.5], last=False), simple([0.0, 1.0])])
    assert one.token_advantages[1:] == (0.0, 0.0), "no step ends there"


def test_weights_of_the_only_verifier_cancel_and_a_judge_of_weight_0_has_no_say() -> None:
    plain = weigh([simple([1.0, 0.0]), simple([0.0, 0.25])])
    scaled = weigh([simple([1.0, 0.0]), simple([0.0, 0.25])], {"prm": 0.25, "judge": 0.0})
    assert [r.token_advantages for r in plain] == [r.token_advantages for r in scaled]


def test_equal_steps_and_outcomes_teach_nothing() -> None:
    for found in weigh([simple([0.7] * n) for n in (1, 2, 3, 3)]):
        assert set(found.token_advantages) == {0.0}
        assert not found.has_signal


def test_advantages_that_cancel_in_the_mean_are_a_signal() -> None:
    found = Rollout(simple([1.0]).completion, {}, {}, 1.0, 0.0, (1.0, -1.0))
    assert found.has_signal
    assert not replace(found, token_advantages=(0.0, 0.0)).has_signal


def test_the_places_of_tokens_are_looked_up_once_and_kept() -> None:
    asked = []

    def locate(completion: Completion) -> Sequence[int]:
        asked.append(completion)
        return (1, 2, 2)

    bare = [
        replace(r, completion=replace(r.completion, token_ends=()))
        for r in (simple([1.0, 0.0]), simple([0.0, 1.0]))
    ]
    group = RolloutGroup(Prompt("p", ({"role": "user", "content": ""},), None), (1,), bare)
    with pytest.raises(DataError, match="did not record"):
        StepEstimator(process_advantages, {}).weigh([group])
    weighed = StepEstimator(process_advantages, {}, locate).weigh([group])
    assert len(asked) == 2
    again = StepEstimator(process_advantages, {}).weigh(weighed)
    assert again == weighed


def test_verifiers_without_steps_are_refused_for_steps_only() -> None:
    done = Completion((1,), "a", (0.0,), "eos")
    whole_only = Rollout(done, {"math": Verdict.correct()}, {"math": 1.0}, 1.0)
    group = RolloutGroup(Prompt("p", ({"role": "user", "content": ""},), None), (1,), [whole_only])
    require_steps(lambda rewards, valid: rewards, [group])
    with pytest.raises(ConfigError, match=r"no verifier \(math\) scores any"):
        require_steps(estimator(), [group])
    require_steps(estimator(), [replace(group, rollouts=[replace(whole_only, reward=None)])])


@pytest.mark.parametrize(
    ("estimate", "what"),
    [
        (lambda rewards, valid: rewards[..., 0], "a tensor"),
        (lambda rewards, valid: rewards / 0, "inf|nan"),
        (lambda rewards, valid: rewards + 1, "a step of a completion whose verifier failed"),
    ],
)
def test_an_estimator_that_breaks_its_contract_is_blamed(estimate: object, what: str) -> None:
    group = RolloutGroup(
        Prompt("p", ({"role": "user", "content": ""},), None),
        (1,),
        [simple([1.0, 0.0]), simple([0.5])],
    )
    with pytest.raises(PluginError, match=what):
        StepEstimator(estimate, {}).weigh([group])  # type: ignore[arg-type]


def test_nothing_to_weigh_is_no_error() -> None:
    assert estimator().weigh([]) == []
    empty = Rollout(
        Completion((), "", (), "eos"), {"prm": Verdict.unparseable()}, {"prm": 0.0}, 0.0
    )
    (one, two) = weigh([empty, empty])
    assert one.token_advantages == () == two.token_advantages
    assert_close(torch.tensor(one.advantage), torch.tensor(0.0))
