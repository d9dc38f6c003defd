from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from grpo_core.errors import ConfigError, DataError
from grpo_core.testing import check_task
from grpo_core.types import Prompt
from grpo_tasks.arithmetic import LEVELS, TEST_SHARE, Arithmetic, Problem


def load(split: str = "train", **options: Any) -> list[Prompt]:
    return list(Arithmetic(Arithmetic.Config(**options)).load(split))


def value_of(expression: str) -> int:
    return int(eval(expression))  # ours: digits, spaces and operators only


def test_default_is_addition_of_two_digit_numbers() -> None:
    for prompt in load():
        first, plus, second = prompt.meta["expression"].split()
        assert plus == "+" and 10 <= int(first) <= 99 and 10 <= int(second) <= 99
        assert prompt.text == f"What is {first} + {second}? Answer with the number only."
        assert prompt.reference == str(int(first) + int(second))
        assert prompt.id == f"add2:{first}+{second}"
        assert prompt.meta["level"] == "add2"
        assert [message["role"] for message in prompt.messages] == ["user"]


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_keeps_its_promises(level: str) -> None:
    prompts = check_task(Arithmetic, {"levels": [level], "seed": 3})
    for prompt in (*prompts["train"], *prompts["test"]):
        expression = prompt.meta["expression"]
        assert prompt.reference == str(value_of(expression))
        assert LEVELS[level].negative_answers or not prompt.reference.startswith("-")
        numbers = [int(part) for part in expression.split()[::2]]
        assert len(numbers) == LEVELS[level].num_operands
        assert all(LEVELS[level].low <= number <= LEVELS[level].high for number in numbers)


def test_chain_is_worded_as_in_the_baseline() -> None:
    texts = {prompt.text for prompt in load(levels=["chain3"])}
    assert "Compute 4 - 7 + 2. Answer with the number only." in texts


def test_equal_up_to_order_is_one_problem() -> None:
    assert Problem((71, 26), ("+",)).key == Problem((26, 71), ("+",)).key
    assert Problem((7, 8), ("*",)).key == Problem((8, 7), ("*",)).key
    assert Problem((4, 7, 2), ("-", "+")).key == Problem((2, 4, 7), ("+", "-")).key
    assert Problem((7, 4), ("-",)).key != Problem((4, 7), ("-",)).key
    assert Problem((2, 3), ("+",)).key != Problem((2, 3), ("*",)).key


def test_about_a_fifth_of_a_level_is_held_out_and_nothing_is_lost() -> None:
    sizes = {}
    for split in ("train", "test"):
        with pytest.raises(ConfigError) as caught:
            load(split, **{f"{split}_size": 8101})
        sizes[split] = int(str(caught.value).split("has only ")[1].split()[0])
    assert sum(sizes.values()) == LEVELS["add2"].size == 8100
    assert abs(sizes["test"] / 8100 - TEST_SHARE) < 0.02


def test_seed_decides_the_order_and_nothing_else_of_a_whole_level() -> None:
    first, second = load(levels=["add1"], seed=0), load(levels=["add1"], seed=1)
    assert [p.id for p in first] != [p.id for p in second]
    assert {p.id for p in first} == {p.id for p in second}


def test_levels_take_turns_and_share_the_size() -> None:
    levels = ["add2", "mul2", "chain3"]
    prompts = load(levels=levels, train_size=100)
    assert [p.meta["level"] for p in prompts] == [levels[i % 3] for i in range(100)]
    assert sorted(Counter(p.meta["level"] for p in prompts).values()) == [33, 33, 34]


def test_small_level_among_large_ones_gives_what_it_has() -> None:
    counts = Counter(p.meta["level"] for p in load(levels=["add1", "add3"]))
    assert counts["add3"] == 2048 and 40 < counts["add1"] < 81


def test_template_can_be_replaced() -> None:
    prompts = load(
        prompt_template="{expression} = ? Use \\boxed{}, {{not}} {question}", test_size=5
    )
    expression = prompts[0].meta["expression"]
    assert prompts[0].text == f"{expression} = ? Use \\boxed{{}}, {{not}} What is {expression}?"


def test_more_problems_than_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"train_size asks for 1000 .* 'add1', which has only \d+"
    ):
        load(levels=["add1"], train_size=1000)
    with pytest.raises(ConfigError, match=r"test_size asks for 5000 .* of level 'add2'.*in test"):
        load("test", test_size=5000)


def test_unknown_split() -> None:
    with pytest.raises(DataError, match=r"Unknown split 'tset'. Did you mean 'test'\?"):
        load("tset")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ["add9"]}, "add1"),
        ({"levels": []}, "at least 1"),
        ({"levels": ["add1", "add1"]}, "twice"),
        ({"train_size": 0}, "greater than 0"),
        ({"prompt_template": "{expresion}"}, "Did you mean 'expression'"),
        ({"level": ["add1"]}, "Extra inputs"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Arithmetic.Config(**options)
