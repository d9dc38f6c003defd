"""Dynamic sampling and the curriculum: which prompts a step trains on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.advantage import group_advantages
from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.rollout import Collection
from grpo_core.training.curriculum import MiddlingFirst
from grpo_core.training.prompt_order import EpochOrder
from grpo_core.training.selection import (
    check_difficulty_key,
    collect_groups,
    create_prompt_source,
    has_signal,
)
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build


def make_prompts(count: int, levels: Sequence[str] = ("",)) -> list[Prompt]:
    return [
        Prompt(
            f"p{n}", [{"role": "user", "content": "?"}], None, {"level": levels[n % len(levels)]}
        )
        for n in range(count)
    ]


def make_group(prompt: Prompt, outcomes: Sequence[bool | None]) -> RolloutGroup:
    """Outcome None stands for a verifier that failed."""

    def rollout(index: int, outcome: bool | None) -> Rollout:
        verdict = (
            Verdict.error() if outcome is None else (Verdict.wrong(), Verdict.correct())[outcome]
        )
        completion = Completion((1,), "", (-1.0,), "eos", index)
        return Rollout(completion, {"v": verdict}, {}, verdict.score)

    return RolloutGroup(prompt, (0,), tuple(rollout(i, o) for i, o in enumerate(outcomes)))


def make_config(total: int, budget: int, **selection: object) -> RunConfig:
    values = {
        "grpo": {"prompts_per_step": total, "group_size": 2},
        "selection": {"refill_budget": budget, **selection},
    }
    return build(RunConfig, values)


# ---- dynamic sampling ----------------------------------------------------------------------------


class Rounds:
    """Plays groups with and without signal, in the order of a script, and notes what was asked."""

    def __init__(self, prompts: Sequence[Prompt], script: Sequence[bool]) -> None:
        self.prompts, self.script = prompts, iter(script)
        self.sizes: list[int] = []

    def __call__(self, indices: Sequence[int], number: int) -> Collection:
        assert number == len(self.sizes)
        self.sizes.append(len(indices))
        groups = [make_group(self.prompts[i], (True, not next(self.script, True))) for i in indices]
        return Collection(groups, 1.0, 0.5)


@given(st.integers(1, 6), st.integers(0, 12), st.lists(st.booleans(), min_size=18, max_size=18))
def test_groups_without_signal_are_replaced_within_the_budget(
    total: int, budget: int, script: list[bool]
) -> None:
    prompts = make_prompts(40)
    rounds = Rounds(prompts, script)
    found = collect_groups(make_config(total, budget), EpochOrder(40, 0), rounds, group_advantages)
    trained = [group for group in found.groups if group.is_trained]
    dropped = [group for group in found.groups if not group.is_trained]
    assert len(trained) == total
    assert rounds.sizes[0] == total
    assert sum(rounds.sizes[1:]) <= budget
    assert len(found.groups) == sum(rounds.sizes)
    assert len({group.prompt.id for group in found.groups}) == len(found.groups)
    assert not any(has_signal(dropped, group_advantages)) if dropped else True
    num_with_signal = sum(has_signal(trained, group_advantages))
    # As many with signal as there were, and no sampling beyond what was missing.
    assert num_with_signal == min(total, sum(script[: len(found.groups)]))
    assert num_with_signal == total or sum(rounds.sizes[1:]) == budget
    assert (
        found.seconds_sample == len(rounds.sizes) and found.seconds_verify == len(rounds.sizes) / 2
    )


def test_without_a_budget_the_estimator_is_not_asked() -> None:
    def estimate(rewards: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        raise AssertionError("not needed")

    rounds = Rounds(make_prompts(4), [False] * 4)
    found = collect_groups(make_config(4, 0), EpochOrder(4, 0), rounds, estimate)
    assert [group.is_trained for group in found.groups] == [True] * 4


def test_a_group_whose_verifier_failed_everywhere_is_replaced() -> None:
    prompts = make_prompts(3)
    outcomes = iter([(None, None), (True, False), (True, False)])

    def collect_round(indices: Sequence[int], number: int) -> Collection:
        return Collection([make_group(prompts[i], next(outcomes)) for i in indices], 0, 0)

    found = collect_groups(make_config(2, 5), EpochOrder(3, 0), collect_round, group_advantages)
    assert [group.is_trained for group in found.groups] == [False, True, True]


# ---- the curriculum ------------------------------------------------------------------------------


def taught(rates: Sequence[float], visits: int = 4, size: int = 20) -> MiddlingFirst:
    """A source that has seen each prompt at its pass rate."""
    prompts = make_prompts(len(rates))
    source = MiddlingFirst(prompts, seed=0)
    for _ in range(visits):
        groups = [
            make_group(prompt, [n < rate * size for n in range(size)])
            for prompt, rate in zip(prompts, rates, strict=True)
        ]
        source.observe(range(len(rates)), groups)
    return source


def test_weights_follow_the_variance_of_the_pass_rate() -> None:
    weights = taught([0.0, 0.25, 0.5, 0.75, 1.0]).weights()
    assert weights.argmax() == 2
    assert weights[[1, 3]].min() > 3 * weights[[0, 4]].max()
    assert (weights > 0).all()  # none is lost for ever


def test_middling_prompts_come_more_often() -> None:
    source = taught([0.0] * 20 + [0.5] * 20 + [1.0] * 20)
    drawn = Counter(index // 20 for _ in range(100) for index in source.draw(4))
    assert drawn[1] > 5 * max(drawn[0], drawn[2])
    assert min(drawn[0], drawn[2]) > 0


def test_unseen_prompts_take_the_rate_of_their_difficulty() -> None:
    prompts = make_prompts(30, ["easy", "middling", "hard"])
    source = MiddlingFirst(prompts, 0, "level")
    for _ in range(5):
        source.observe(
            [0, 1, 2],
            [
                make_group(prompts[0], [True] * 8),
                make_group(prompts[1], [True, False] * 4),
                make_group(prompts[2], [False] * 8),
            ],
        )
    weights = source.weights()[3:]
    assert weights[1::3].min() > 3 * max(weights[0::3].max(), weights[2::3].max())


def test_a_pass_rate_fades_when_the_policy_has_moved_on() -> None:
    source = taught([0.0], visits=6)
    assert source.weights()[0] < 0.5
    prompt = make_prompts(1)[0]
    for _ in range(3):
        source.observe([0], [make_group(prompt, [True, False] * 10)])
    assert source.weights()[0] > 0.9


def test_failed_verifiers_teach_nothing_about_difficulty() -> None:
    prompts = make_prompts(2)
    source = MiddlingFirst(prompts, 0)
    before = source.weights()
    source.observe([0, 1], [make_group(prompt, [None, None]) for prompt in prompts])
    np.testing.assert_array_equal(source.weights(), before)


@given(st.integers(1, 20), st.integers(1, 30), st.integers(0, 9))
def test_a_draw_repeats_no_prompt_before_it_has_to(size: int, count: int, seed: int) -> None:
    drawn = MiddlingFirst(make_prompts(size), seed).draw(count)
    assert len(drawn) == count
    for start in range(0, count, size):
        part = drawn[start : start + size]
        assert len(set(part)) == len(part) and set(part) <= set(range(size))


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2**8 - 1)), max_size=6), st.integers(0, 6)
)
def test_a_curriculum_goes_on_from_its_state(history: list[tuple[int, int]], stop: int) -> None:
    """Through JSON, as in a checkpoint."""
    prompts = make_prompts(9, ["a", "b"])
    config = make_config(2, 0, curriculum="middling", difficulty_key="level")
    whole = create_prompt_source(config, prompts, {})
    resumed = whole
    for at, (count, bits) in enumerate(history):
        if at == stop:
            resumed = create_prompt_source(config, prompts, json.loads(json.dumps(whole.state())))
        drawn = whole.draw(count)
        if resumed is not whole:
            assert resumed.draw(count) == drawn
        groups = [make_group(prompts[i], [bool(bits >> n & 1) for n in range(i)]) for i in drawn]
        for source in {id(s): s for s in (whole, resumed)}.values():
            source.observe(drawn, groups)
    assert resumed.state() == whole.state()


def test_a_difficulty_that_no_prompt_has_is_refused() -> None:
    config = make_config(2, 0, curriculum="middling", difficulty_key="lvel")
    with pytest.raises(
        ConfigError, match=r"'lvel'.*Did you mean 'level'.*selection\.difficulty_key"
    ):
        check_difficulty_key(config, make_prompts(3))


def test_a_signal_in_completions_that_are_masked_is_none() -> None:
    prompts = make_prompts(1)
    group = make_group(prompts[0], (True, False, False))
    cut = [
        replace(r, completion=replace(r.completion, finish_reason="length")) for r in group.rollouts
    ]
    groups = [replace(group, rollouts=tuple(cut))]
    assert has_signal(groups, group_advantages) == [True]
    assert has_signal(groups, group_advantages, masks_truncated=True) == [False]
