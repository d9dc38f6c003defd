"""The curriculum's weights, against their formula in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.training.curriculum import MiddlingFirst
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict

LEVELS = ("easy", "hard", "easy", "hard", "easy")
PROMPTS = [
    Prompt(f"p{n}", [{"role": "user", "content": "?"}], None, {"level": level})
    for n, level in enumerate(LEVELS)
]
VERDICTS = {True: Verdict.correct(), False: Verdict.wrong(), None: Verdict.error()}
outcomes = st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=5)
visits = st.lists(st.tuples(st.integers(0, len(PROMPTS) - 1), outcomes), max_size=8)


def make_group(prompt: Prompt, outcomes: Sequence[bool | None]) -> RolloutGroup:
    completion = Completion((1,), "", (-1.0,), "eos")
    return RolloutGroup(prompt, (0,), [Rollout(completion, {"v": VERDICTS[o]}) for o in outcomes])


def expected_weights(
    visits: Sequence[tuple[int, Sequence[bool | None]]], by_level: bool
) -> list[float]:
    """w = 0.05 + 4 p (1 - p); a visit halves what was seen before, for a level times 0.98."""

    def rate(mine: list[list[bool]], fading: float, prior: float) -> float:
        judged = correct = 0.0
        for found in mine:
            judged, correct = fading * judged + len(found), fading * correct + sum(found)
        return (correct + 2 * prior) / (judged + 2)

    seen = [(at, [o for o in found if o is not None]) for at, found in visits]
    seen = [(at, found) for at, found in seen if found]
    weights = []
    for index, level in enumerate(LEVELS):
        alike = [found for at, found in seen if not by_level or LEVELS[at] == level]
        prior = rate(alike, 0.98, 0.5)
        mine = [found for at, found in seen if at == index]
        p = rate(mine, 0.5, prior) if mine else prior
        weights.append(0.05 + 4 * p * (1 - p))
    return weights


@given(visits, st.booleans())
def test_weights_are_the_formula(
    visits: list[tuple[int, list[bool | None]]], by_level: bool
) -> None:
    source = MiddlingFirst(PROMPTS, seed=0, difficulty_key="level" if by_level else None)
    for index, found in visits:
        source.observe([index], [make_group(PROMPTS[index], found)])
    assert source.weights().tolist() == pytest.approx(expected_weights(visits, by_level))
