from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_tasks.arithmetic import LEVELS, Arithmetic
from grpo_tasks.splits import is_held_out
from grpo_tasks.templates import check_template, placeholders, render

# Small enough to be drawn to the last problem in every example.
small = ["add1", "sub1", "mul1", "chain3"]
levels = st.lists(st.sampled_from(small), min_size=1, max_size=4, unique=True)
seeds = st.integers(0, 2**63)
texts = st.text(max_size=40)


def problems(split: str, names: list[str], seed: int, size: int | None = None) -> list[str]:
    config = Arithmetic.Config(levels=tuple(names), seed=seed, **{f"{split}_size": size})
    return [prompt.meta["expression"] for prompt in Arithmetic(config).load(split)]


def canonical(expression: str) -> tuple[str, ...]:
    """Written anew here: terms with their signs, in any order."""
    if "*" in expression:
        return ("*", *sorted(expression.split(" * ")))
    return tuple(sorted(f"+{expression}".replace("- ", "-").replace("+ ", "+").split()))


@given(levels, levels, seeds, seeds)
def test_train_and_test_share_no_problem(
    train_levels: list[str], test_levels: list[str], train_seed: int, test_seed: int
) -> None:
    train = {canonical(e) for e in problems("train", train_levels, train_seed)}
    test = {canonical(e) for e in problems("test", test_levels, test_seed)}
    assert train.isdisjoint(test)


@given(levels, seeds)
def test_no_problem_twice_in_a_split(names: list[str], seed: int) -> None:
    for split in ("train", "test"):
        found = problems(split, names, seed)
        assert len(set(found)) == len(found)


@given(st.sampled_from(["add2", "mul2", "chain4"]), seeds, st.integers(1, 60), st.integers(1, 60))
def test_first_problems_do_not_depend_on_the_size(level: str, seed: int, a: int, b: int) -> None:
    small, large = sorted((a, b))
    assert problems("train", [level], seed, large)[:small] == problems(
        "train", [level], seed, small
    )


@given(st.sampled_from(["add2", "sub2", "mul2"]), st.data())
def test_every_problem_can_be_decoded_once(level: str, data: st.DataObject) -> None:
    size = LEVELS[level].size
    i, j = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    assert (LEVELS[level].problem(i) == LEVELS[level].problem(j)) == (i == j)


@given(texts, st.floats(0, 1), st.floats(0, 1))
def test_held_out_set_grows_with_its_share(content: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert is_held_out(content, low) <= is_held_out(content, high)
    assert not is_held_out(content, 0)
    assert is_held_out(content, 1)


@given(texts)
def test_white_space_does_not_move_a_problem(content: str) -> None:
    assert is_held_out(content, 0.5) == is_held_out(f"  {content}\n", 0.5)


def test_share_is_kept() -> None:
    held_out = sum(is_held_out(f"problem {n}", 0.1) for n in range(20_000))
    assert held_out == pytest.approx(2000, abs=150)


@given(texts)
def test_a_template_of_doubled_braces_is_the_text(text: str) -> None:
    template = text.replace("{", "{{").replace("}", "}}")
    assert placeholders(template) == []
    assert render(template, {}) == text


@given(texts, texts, texts)
def test_values_are_put_in_as_they_are(before: str, value: str, after: str) -> None:
    before, after = (text.replace("{", "").replace("}", "") for text in (before, after))
    template = check_template(f"{before}|{{x}}|{after}", ("x",))
    assert render(template, {"x": value}) == f"{before}|{value}|{after}"
