"""Micro-batches hold every completion once, fit, and are of like size in all processes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.training.dealing import deal, pack
from grpo_core.training.packing import MicroBatch, TrainingCompletion

lengths = st.integers(1, 40)


@st.composite
def batches(draw: st.DrawFn) -> list[TrainingCompletion]:
    """Completions of some prompts, numbered, in any order."""
    prompts = draw(st.lists(lengths, min_size=1, max_size=4))
    made = [
        TrainingCompletion([number] * length, [9] * draw(lengths), 1.0, [])
        for number, length in enumerate(prompts)
        for _ in range(draw(st.integers(1, 5)))
    ]
    made = [
        TrainingCompletion(c.prompt_ids, c.token_ids, 1.0, [0.0] * len(c.token_ids), place)
        for place, c in enumerate(made)
    ]
    return draw(st.permutations(made))


def places(batch: MicroBatch) -> list[int]:
    return batch.places.tolist() if len(batch.targets) else []


def tokens(batch: MicroBatch) -> int:
    return batch.input_ids.numel() if len(batch.targets) else 0


@given(batches(), st.integers(1, 200), st.integers(1, 4), st.booleans())
def test_every_completion_is_dealt_once_and_fits(
    completions: list[TrainingCompletion], max_tokens: int, size: int, share_prompts: bool
) -> None:
    dealt = [
        deal(completions, max_tokens, rank, size, share_prompts=share_prompts)
        for rank in range(size)
    ]
    assert len({len(own) for own in dealt}) == 1  # all make equally many passes
    everything = [batch for own in dealt for batch in own]
    assert sorted(place for batch in everything for place in places(batch)) == list(
        range(len(completions))
    )
    for batch in everything:
        assert tokens(batch) <= max_tokens or len(places(batch)) == 1


@given(batches(), st.integers(1, 4))
def test_nobody_waits_idly_while_there_is_enough_for_all(
    completions: list[TrainingCompletion], size: int
) -> None:
    dealt = [deal(completions, 10**6, rank, size) for rank in range(size)]
    busy = sum(any(places(batch) for batch in own) for own in dealt)
    assert busy == min(size, len(completions))


def test_processes_get_work_of_like_size() -> None:
    """Sixteen groups, one of them ten times as long as the others."""
    made = [
        TrainingCompletion([number] * 20, [9] * (300 if number == 0 else 30), 1.0, [0.0] * 300)
        for number in range(16)
        for _ in range(8)
    ]
    made = [
        TrainingCompletion(c.prompt_ids, c.token_ids, 1.0, c.sampler_logprobs[: len(c.token_ids)])
        for c in made
    ]
    for size in (2, 4):
        rounds = zip(*(deal(made, 10**6, rank, size) for rank in range(size)), strict=True)
        for together in rounds:
            work = [tokens(batch) for batch in together]
            assert max(work) <= 1.25 * min(work)


def test_a_group_stays_together_where_it_fits() -> None:
    made = [
        TrainingCompletion([number] * 10, [9] * 5, 1.0, [0.0] * 5, number)
        for number in range(6)
        for _ in range(8)
    ]
    for batch in pack(made, 110):
        counts = Counter(places(batch))
        assert set(counts.values()) == {8}


def test_an_overlong_completion_does_not_scatter_the_others() -> None:
    made = [TrainingCompletion([1] * 5, [9] * 500, 1.0, [0.0] * 500)]
    made += [TrainingCompletion([2] * 5, [9] * 10, 1.0, [0.0] * 10) for _ in range(20)]
    found = list(pack(made, 210))
    assert len(found) <= 4


def test_the_order_of_completions_decides_nothing() -> None:
    made = [
        TrainingCompletion([number] * 10, [9] * (5 + at), 1.0, [0.0] * (5 + at), 10 * number + at)
        for number in range(4)
        for at in range(4)
    ]
    forward, backward = (list(pack(items, 90)) for items in (made, made[::-1]))
    assert [sorted(places(b)) for b in forward] == [sorted(places(b)) for b in backward]


@pytest.mark.parametrize("share_prompts", [True, False])
def test_nothing_to_deal(share_prompts: bool) -> None:
    assert deal([], 100, 0, 2, share_prompts=share_prompts) == []
