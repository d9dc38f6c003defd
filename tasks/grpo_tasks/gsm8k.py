"""GSM8K: grade school word problems (Cobbe et al. 2021, arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import ClassVar, Self

from pydantic import BaseModel, Field, PositiveInt, field_validator, model_validator

from grpo_core import Prompt
from grpo_core.errors import DataError
from grpo_tasks.sources import Row, Source, check_one_test, is_file
from grpo_tasks.splits import check_split
from grpo_tasks.templates import check_template, render

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


class Gsm8k:
    """Grade school word problems whose answers are whole numbers: 7,473 to train, 1,319 to test.

    Format: columns question and answer, where the answer is a worked solution, then "#### 72"; the
    reference is what follows ####, without thousands separators. Meta holds the worked solution
    and its number of steps.

    Read from the hub (openai/gsm8k) or from a local file or folder. The hub's
    own test split is the held-out one. A single local file without `test_path` is divided: a
    question is held out when its hash falls in `test_share` (a tenth unless set), which never
    changes with the order or number of rows.

    Source: https://github.com/openai/grade-school-math. Licence: MIT.
    """

    version = "1.0"
    default_verifier = "math"
    splits: ClassVar[Sequence[str]] = ("train", "test")
    evaluation_split = "test"

    class Config(BaseModel, frozen=True, extra="forbid"):
        """Options."""

        path: str = Field(
            "openai/gsm8k", description="hub id, local .jsonl, .json, .parquet file, or folder"
        )
        config: str = Field(
            "main", description="configuration on the hub or in a folder; empty: a folder has none"
        )
        test_path: str | None = Field(None, description="where test is, if not in path")
        test_share: float | None = Field(
            None, gt=0, lt=1, description="share of the train questions held out by hash as test"
        )
        prompt_template: str = Field(
            "{question}\n\nThink step by step, and put the final answer within \\boxed{}.",
            description="the user message; {question} is the problem",
        )
        system_prompt: str | None = Field(None, description="a system message before it")
        limit: PositiveInt | None = Field(None, description="only the first ones of each split")

        @field_validator("prompt_template")
        @classmethod
        def _known_placeholders(cls, template: str) -> str:
            return check_template(template, ("question",))

        @model_validator(mode="after")
        def _one_test(self) -> Self:
            check_one_test(self.test_path, self.test_share)
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self._source = Source(
            config.path,
            None if is_file(config.path) else config.config or None,
            test_path=config.test_path,
            test_share=config.test_share,
        )

    def load(self, split: str) -> Sequence[Prompt]:
        """The problems of a split, in the order of the data set.

        Raises:
            DataError: if the data cannot be read or an answer has no ####.
            ConfigError: if it has no column question or answer.
        """
        check_split(split, self.splits)
        rows = self._source.rows(split, ("question", "answer"), lambda row: str(row["question"]))
        return [self._prompt(number, row, split) for number, row in islice(rows, self.config.limit)]

    def _prompt(self, number: int, row: Row, split: str) -> Prompt:
        question, answer = row["question"], row["answer"]
        where = f"{self.config.path}, row {number} of {split}"
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{where}: question must be text, got {question!r:.80}.")
        solution, mark, final = str(answer).rpartition("####")
        reference = _THOUSANDS.sub("", final.strip())
        if not mark or not reference:
            raise DataError(f"{where}: the answer must end in '#### <number>', got {answer!r:.80}.")
        text = render(self.config.prompt_template, {"question": question})
        user = {"role": "user", "content": text}
        system = self.config.system_prompt
        return Prompt(
            id=f"{split}:{number}",
            messages=(user,) if system is None else ({"role": "system", "content": system}, user),
            reference=reference,
            meta={"solution": solution.strip(), "num_steps": len(solution.strip().splitlines())},
        )
