from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_core.errors import ConfigError
from grpo_core.testing import check_shaper, make_scored
from grpo_core.types import ScoredCompletion, Verdict
from grpo_plugins.format_bonus import format_bonus, has_box, has_think_and_answer
from grpo_plugins.length_penalty import LengthPenalty, group_reward, target_penalty
from grpo_plugins.overlong import overlong, soft_overlong
from grpo_plugins.repetition import repetition, repetition_penalty

CORRECT, WRONG, ERROR = Verdict.correct(), Verdict.wrong(), Verdict.error()
lengths = st.integers(0, 400)


@st.composite
def groups(draw: st.DrawFn) -> list[ScoredCompletion]:
    verdicts = [CORRECT, WRONG, Verdict.unparseable(), Verdict.abstain(), ERROR]
    one = st.builds(
        make_scored,
        st.text(max_size=60),
        num_tokens=st.none() | lengths,
        verdict=st.sampled_from(verdicts),
        max_new_tokens=st.integers(1, 400),
    )
    return draw(st.lists(one, min_size=1, max_size=8))


ALL = [
    (format_bonus, {}),
    (format_bonus, {"style": "boxed"}),
    (format_bonus, {"partial": True}),
    (format_bonus, {"partial": True, "think_opened": True}),
    (LengthPenalty, {}),
    (LengthPenalty, {"only_correct": True}),
    (LengthPenalty, {"relative_to": "target", "target": 20}),
    (overlong, {"cache": 1}),
    (overlong, {"max_length": 100, "cache": 100}),
    (repetition, {}),
    (repetition, {"ngram": 1, "unit": "words"}),
]


@pytest.mark.parametrize(("shaper", "options"), ALL)
def test_range_is_kept_on_odd_texts(shaper: Any, options: dict[str, Any]) -> None:
    check_shaper(shaper, options=options)


@given(groups(), st.sampled_from(ALL))
def test_range_is_kept_in_any_group(group: list[ScoredCompletion], case: Any) -> None:
    shaper, options = case
    instance = shaper(shaper.Config(**options))
    values = instance.shape(group)
    assert len(values) == len(group)
    assert all(shaper.range[0] <= value <= shaper.range[1] for value in values)
    assert instance.shape(group) == values


@pytest.mark.parametrize(("shaper", "options"), ALL)
def test_empty_completions_are_legal(shaper: Any, options: dict[str, Any]) -> None:
    for verdict in (CORRECT, WRONG, ERROR):
        [value] = shaper(shaper.Config(**options)).shape([make_scored("", verdict=verdict)])
        assert value == 0.0


@pytest.mark.parametrize("shaper", [format_bonus, LengthPenalty, overlong, repetition])
def test_options_and_class_are_described(shaper: Any) -> None:
    assert shaper.__doc__ and shaper.version == "1.0"
    for name, option in shaper.Config.model_fields.items():
        assert option.description, name


# ---- format_bonus -------------------------------------------------------------------------------

GOOD = "<think>It is 2.</think>\n<answer>2</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD, True),
        (f"  {GOOD}\n", True),
        ("<think></think><answer>2</answer>", True),
        ("", False),
        ("2", False),
        ("<answer>2</answer>", False),
        ("<think>a</think><answer> </answer>", False),
        (f"Well: {GOOD}", False),
        (f"{GOOD} Done.", False),
        (f"{GOOD}{GOOD}", False),
        ("<think>a</think> so <answer>2</answer>", False),
        ("<answer>2</answer><think>a</think>", False),
        ("<think>a<answer>2</think></answer>", False),
        ("<THINK>a</THINK><answer>2</answer>", False),
    ],
)
def test_think_and_answer(text: str, expected: bool) -> None:
    assert has_think_and_answer(text) is expected
    assert check_shaper(format_bonus, [make_scored(text)]) == [float(expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so \\boxed{2}", True),
        ("\\boxed{\\frac{1}{2}} and more", True),
        ("\\boxed{} then \\boxed{3}", True),
        ("\\boxed{3} then \\boxed{}", False),
        ("\\boxed{ }", False),
        ("\\boxed{\\frac{1}{2}", False),
        ("\\boxed 2", False),
        ("{2}", False),
        ("", False),
    ],
)
def test_box(text: str, expected: bool) -> None:
    assert has_box(text) is expected
    assert check_shaper(format_bonus, [make_scored(text)], {"style": "boxed"}) == [float(expected)]


def test_partial_bonus_counts_tags_that_occur_once() -> None:
    texts = ["", "<think>", "<think></think><answer>2", "<answer>2</answer><think></think>", GOOD]
    group = [make_scored(text) for text in (*texts, "<think><think>")]
    assert check_shaper(format_bonus, group, {"partial": True}) == [0, 0.25, 0.75, 0.75, 1, 0]


def test_think_may_be_opened_by_the_prompt() -> None:
    options = {"think_opened": True, "partial": True}
    texts = ["It is 2.</think><answer>2</answer>", GOOD, "</think>"]
    group = [make_scored(text) for text in texts]
    assert check_shaper(format_bonus, group, options) == [1, 2 / 3, 1 / 3]


@given(st.text(alphabet="<>/thinkaswer {}\\boxd2", max_size=80))
def test_the_form_is_what_the_regular_expression_says(text: str) -> None:
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>", "<answer>", "</answer>"))
    form = r"\s*<think>.*</think>\s*<answer>.*\S.*</answer>\s*"
    assert has_think_and_answer(text) == (once and bool(re.fullmatch(form, text, re.DOTALL)))


# ---- length_penalty -----------------------------------------------------------------------------


def test_kimi_length_reward() -> None:
    group = [
        make_scored("", num_tokens=100, verdict=CORRECT),
        make_scored("", num_tokens=150, verdict=CORRECT),
        make_scored("", num_tokens=300, verdict=CORRECT),
        make_scored("", num_tokens=100, verdict=WRONG),
        make_scored("", num_tokens=250, verdict=WRONG),
        make_scored("", num_tokens=9000, verdict=ERROR),
    ]
    assert check_shaper(LengthPenalty, group) == [0.5, 0.25, -0.5, 0.0, -0.25, 0.0]


def test_equal_lengths_give_nothing() -> None:
    assert check_shaper(LengthPenalty, [make_scored("", num_tokens=7)] * 4) == [0.0] * 4


def test_only_correct_ones_are_compared() -> None:
    group = [
        make_scored("", num_tokens=10, verdict=WRONG),
        make_scored("", num_tokens=20, verdict=CORRECT),
        make_scored("", num_tokens=40, verdict=CORRECT),
    ]
    assert check_shaper(LengthPenalty, group, {"only_correct": True}) == [0.0, 0.5, -0.5]


def test_target() -> None:
    group = [make_scored("", num_tokens=n) for n in (0, 100, 125, 200, 900)]
    options = {"relative_to": "target", "target": 100}
    assert check_shaper(LengthPenalty, group, options) == [0.0, 0.0, -0.25, -1.0, -1.0]


@given(lengths, st.lists(lengths, min_size=1))
def test_shorter_never_gets_less(length: int, others: list[int]) -> None:
    low, high = min(length, *others), max(length, *others)
    assert group_reward(length, low, high) >= group_reward(high, low, high)
    assert target_penalty(low, 50) >= target_penalty(high, 50)


@pytest.mark.parametrize("options", [{"relative_to": "target"}, {"target": 10}])
def test_target_belongs_to_its_mode(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Set both, or neither"):
        LengthPenalty.Config(**options)


# ---- overlong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0.0),
        (16384, 0.0),
        (16385, -1 / 4096),
        (18432, -0.5),
        (20479, -4095 / 4096),
        (20480, -1.0),
        (20481, -1.0),
        (10**9, -1.0),
    ],
)
def test_dapo_equation_13(length: int, expected: float) -> None:
    assert soft_overlong(length, 20480, 4096) == expected
    scored = make_scored("", num_tokens=min(length, 30000), max_new_tokens=20480)
    assert check_shaper(overlong, [scored]) == [expected]  # a fifth of 20480 is 4096


def test_limit_of_the_options_wins() -> None:
    scored = make_scored("", num_tokens=95, max_new_tokens=1000)
    assert check_shaper(overlong, [scored], {"max_length": 100, "cache": 10}) == [-0.5]


@given(st.integers(1, 500), st.data())
def test_overlong_falls_steadily(l_max: int, data: st.DataObject) -> None:
    l_cache = data.draw(st.integers(1, l_max))
    values = [soft_overlong(length, l_max, l_cache) for length in range(l_max + 3)]
    assert values == sorted(values, reverse=True)
    assert all(a - b <= 1 / l_cache + 1e-12 for a, b in pairwise(values))
    assert values[0] == 0.0 and values[-1] == -1.0


def test_buffer_longer_than_the_limit() -> None:
    with pytest.raises(ConfigError, match=r"got 20 > 10. Lower cache"):
        check_shaper(overlong, [], {"max_length": 10, "cache": 20})


# ---- repetition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "ngram", "expected"),
    [
        ([], 2, 0.0),
        ([1], 2, 0.0),
        ([1, 2], 2, 0.0),
        ([1, 2, 3, 4], 2, 0.0),
        ([1, 2, 1, 2], 2, 2 / 3 - 1),  # 12 21 12
        ([7, 7, 7, 7, 7], 2, 1 / 4 - 1),
        ([1, 1, 2], 1, 2 / 3 - 1),
    ],
)
def test_repetition_penalty(units: list[int], ngram: int, expected: float) -> None:
    assert repetition_penalty(units, ngram) == expected


def test_words_and_tokens() -> None:
    scored = make_scored("So it is. so IT is.", num_tokens=6)
    assert check_shaper(repetition, [scored], {"ngram": 3, "unit": "words"}) == [3 / 4 - 1]
    assert check_shaper(repetition, [scored], {"ngram": 3}) == [0.0]  # its tokens all differ


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_repeating_the_whole_never_raises_the_value(units: list[int], ngram: int) -> None:
    assert repetition_penalty(units * 2, ngram) <= repetition_penalty(units, ngram)
