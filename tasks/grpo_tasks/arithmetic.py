"""Arithmetic: problems made on the spot, in levels of difficulty, with no data to fetch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import ClassVar, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, field_validator

from grpo_core import Prompt
from grpo_core.errors import ConfigError
from grpo_tasks.splits import check_split, is_held_out
from grpo_tasks.templates import check_template, render

LevelName = Literal[
    "add1", "add2", "add3", "sub1", "sub2", "sub3", "mul1", "mul2", "chain3", "chain4", "chain5"
]
TEST_SHARE = 0.2  # of the problem space
DEFAULT_SIZES = {"train": 4096, "test": 512}


@dataclass(frozen=True, slots=True)
class Level:
    """The problems of a level: `num_operands` numbers of [low, high] joined by `operators`."""

    operators: str
    num_operands: int
    low: int
    high: int
    negative_answers: bool = False

    @property
    def size(self) -> int:
        """How many expressions there are, those with a refused negative answer included."""
        num_operators = len(self.operators) ** (self.num_operands - 1)
        return num_operators * (self.high - self.low + 1) ** self.num_operands

    def problem(self, index: int) -> Problem:
        """Expression number `index` of the space."""
        operands, operators = [], []
        for position in range(self.num_operands):
            index, digit = divmod(index, self.high - self.low + 1)
            operands.append(self.low + digit)
            if position:
                index, digit = divmod(index, len(self.operators))
                operators.append(self.operators[digit])
        return Problem(tuple(operands), tuple(operators))


@dataclass(frozen=True, slots=True)
class Problem:
    """Operands, and the operators between them: `*` alone, or any of `+` and `-`."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    def text(self, space: str = " ") -> str:
        """The expression, such as "4 - 7 + 2"."""
        pairs = zip(self.operators, self.operands[1:], strict=True)
        return str(self.operands[0]) + "".join(f"{space}{op}{space}{n}" for op, n in pairs)

    @property
    def answer(self) -> int:
        """The value of the expression."""
        value = self.operands[0]
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            if operator == "*":
                value *= operand
            else:
                value += operand if operator == "+" else -operand
        return value

    @property
    def key(self) -> str:
        """The same for expressions that differ in the order of their terms or factors only."""
        first = "*" if "*" in self.operators else "+"
        signs = (first, *self.operators)
        terms = (f"{sign}{n}" for sign, n in zip(signs, self.operands, strict=True))
        return " ".join(sorted(terms))


LEVELS: dict[str, Level] = {
    "add1": Level("+", 2, 1, 9),
    "add2": Level("+", 2, 10, 99),
    "add3": Level("+", 2, 100, 999),
    "sub1": Level("-", 2, 1, 9),
    "sub2": Level("-", 2, 10, 99),
    "sub3": Level("-", 2, 100, 999),
    "mul1": Level("*", 2, 2, 9),
    "mul2": Level("*", 2, 10, 99),
    "chain3": Level("+-", 3, 1, 9, negative_answers=True),
    "chain4": Level("+-", 4, 1, 9, negative_answers=True),
    "chain5": Level("+-", 5, 1, 9, negative_answers=True),
}


class Arithmetic:
    """Procedural sums, differences, products, and chains, such as "What is 71 + 26?".

    Levels: add, sub, and mul join two numbers of 1, 2, or 3 digits; chain joins 3, 4, or 5 numbers
    of one digit by + and -. A sub problem has no negative answer, a chain may. Several levels take
    turns, so that every part of a split holds all of them. No problem occurs twice in a split.

    Train and test are disjoint for every seed and level: about a fifth of all problems is held
    out by a hash of the problem's content, and 71 + 26 and 26 + 71 count as one problem.

    Format: one user message; the reference is the answer's decimal digits; meta holds level and
    expression. Source: made by this module; no licence applies.
    """

    version = "1.0"
    default_verifier = "math"
    splits: ClassVar[Sequence[str]] = ("train", "test")
    evaluation_split = "test"

    class Config(BaseModel, frozen=True, extra="forbid"):
        """Options."""

        levels: tuple[LevelName, ...] = Field(
            ("add2",), min_length=1, description="levels that take turns"
        )
        seed: NonNegativeInt = Field(0, description="decides which problems, and their order")
        train_size: PositiveInt | None = Field(
            None, description=f"problems in train; unset: {DEFAULT_SIZES['train']}, or all"
        )
        test_size: PositiveInt | None = Field(
            None, description=f"problems in test; unset: {DEFAULT_SIZES['test']}, or all"
        )
        prompt_template: str = Field(
            "{question} Answer with the number only.",
            description="{question} is 'What is 71 + 26?', {expression} is '71 + 26'",
        )

        @field_validator("levels")
        @classmethod
        def _no_level_twice(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
            if len(set(levels)) < len(levels):
                raise ValueError(f"names a level twice: {', '.join(levels)}")
            return levels

        @field_validator("prompt_template")
        @classmethod
        def _known_placeholders(cls, template: str) -> str:
            return check_template(template, ("question", "expression"))

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, split: str) -> Sequence[Prompt]:
        """The problems of a split, in an order that the seed decides.

        The first n problems are the same whatever the size.

        Raises:
            ConfigError: if more problems are asked for than there are.
        """
        check_split(split, self.splits)
        asked = self.config.train_size if split == "train" else self.config.test_size
        size = asked or DEFAULT_SIZES[split]
        levels = self.config.levels
        columns = []
        for position, level in enumerate(levels):
            share = -(-(size - position) // len(levels))  # rounded up: earlier levels come first
            prompts = list(islice(self._prompts(level, split), share))
            if asked and len(prompts) < share:
                raise ConfigError(
                    f"{split}_size asks for {share} problems of level '{level}', which has only "
                    f"{len(prompts)} in {split}. Ask for fewer, or add levels."
                )
            columns.append(prompts)
        turns = (prompt for row in zip_longest(*columns) for prompt in row if prompt is not None)
        return list(turns)

    def _prompts(self, level_name: str, split: str) -> Iterator[Prompt]:
        level = LEVELS[level_name]
        rng = random.Random(f"{self.config.seed}/{split}/{level_name}")
        for index in _permutation(level.size, rng):
            problem = level.problem(index)
            if problem.answer < 0 and not level.negative_answers:
                continue
            if is_held_out(problem.key, TEST_SHARE) == (split == "test"):
                yield self._prompt(level_name, problem)

    def _prompt(self, level_name: str, problem: Problem) -> Prompt:
        expression = problem.text()
        chain = level_name.startswith("chain")
        question = f"Compute {expression}." if chain else f"What is {expression}?"
        values = {"question": question, "expression": expression}
        return Prompt(
            id=f"{level_name}:{problem.text(space='')}",
            messages=({"role": "user", "content": render(self.config.prompt_template, values)},),
            reference=str(problem.answer),
            meta={"level": level_name, "expression": expression},
        )


def _permutation(size: int, rng: random.Random) -> Iterator[int]:
    """All of range(size) in random order, one by one (Fisher-Yates without the whole list)."""
    moved: dict[int, int] = {}
    for i in range(size):
        j = rng.randrange(i, size)
        yield moved.get(j, j)
        moved[j] = moved.get(i, i)
