"""Where steps end, and what their scores add up to."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_verifiers.learned.steps import aggregate, step_ends, words_end

texts = st.lists(
    st.sampled_from(["a", "Step 2: b", "\n", "\n\n", " ", "3. c", "\N{GREEK SMALL LETTER PI}"])
).map("".join)
separators = st.sampled_from(["\n\n", "\n", "Step"])


def steps(text: str, how: str = "separator", separator: str = "\n\n", most: int = 99) -> list[str]:
    ends = step_ends(text, how, separator, most)  # type: ignore[arg-type]
    return [text[start:end] for start, end in pairwise([0, *ends])]


@given(texts.filter(str.strip), st.sampled_from(["separator", "numbered"]), separators)
def test_steps_tile_the_text_and_none_is_blank(text: str, how: str, separator: str) -> None:
    found = steps(text, how, separator)
    assert "".join(found) == text
    assert all(map(str.strip, found))


@given(texts.filter(str.strip), st.integers(1, 4))
def test_the_last_step_holds_the_rest(text: str, most: int) -> None:
    found, whole = steps(text, most=most), steps(text)
    assert len(found) == min(most, len(whole))
    assert found[:-1] == whole[: len(found) - 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", ["one"]),
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("one\n\n\n\ntwo\n\n", ["one\n\n\n\n", "two\n\n"]),
        ("\n\none\n\ntwo", ["\n\none\n\n", "two"]),
        ("a\n\n \n\nb\n", ["a\n\n \n\n", "b\n"]),
        ("\n\n \n", ["\n\n \n"]),
    ],
)
def test_separated_steps(text: str, expected: list[str]) -> None:
    assert steps(text) == expected


def test_separators_alone_are_no_step() -> None:
    assert steps("|a||b| |c|", separator="|") == ["|a||", "b| |", "c|"]
    assert steps("||", separator="|") == ["||"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Step 1: a\nStep 2: b", ["Step 1: a\n", "Step 2: b"]),
        ("Let us see.\n1. a\n2) b", ["Let us see.\n", "1. a\n", "2) b"]),
        ("**Step 1** a\n### STEP 2 b", ["**Step 1** a\n", "### STEP 2 b"]),
        ("3.5 is not\n2.5 a step 4", ["3.5 is not\n2.5 a step 4"]),
        ("\n\nStep 1: a", ["\n\nStep 1: a"]),
    ],
)
def test_numbered_steps(text: str, expected: list[str]) -> None:
    assert steps(text, "numbered") == expected


@pytest.mark.parametrize(
    ("step", "separator", "expected"),
    [
        ("so 2.\n\n", "\n\n", "so 2."),
        ("so 2. | |\n", "|", "so 2."),
        ("||", "|", "|"),
        ("so 2.", ".", "so 2"),
        ("so 2. ", "", "so 2."),
    ],
)
def test_separators_are_no_words(step: str, separator: str, expected: str) -> None:
    assert step[: words_end(step, separator)] == expected


scores = st.lists(st.floats(0, 1), min_size=1, max_size=9)


@given(scores)
def test_aggregates_are_what_their_names_say(values: list[float]) -> None:
    assert aggregate(values, "min") == sorted(values)[0]
    assert aggregate(values, "last") == values[-1]
    assert aggregate(values, "mean") == pytest.approx(sum(values) / len(values))
    assert aggregate(values, "product") == pytest.approx(math.prod(values))
    for how in ("min", "mean", "product", "last"):
        assert 0.0 <= aggregate(values, how) <= 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["\n" * 1_000_000 + "a", "|" * 1_000_000, "a" + " |" * 500_000])
def test_a_megabyte_is_cut_at_once(text: str) -> None:
    """In time that is not its square, which would be hours."""
    for separator in ("\n\n", "|"):
        ends = step_ends(text, "separator", separator, 128)
        assert ends[-1] == len(text)
        assert words_end(text, separator) <= len(text)
