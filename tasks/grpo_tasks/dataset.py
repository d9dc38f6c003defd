"""Any data set with prompts and references: from the hub, or from a local file or folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, Self

from pydantic import BaseModel, Field, PositiveInt, model_validator

from grpo_core import Prompt
from grpo_core.errors import ConfigError, DataError
from grpo_core.types import Json, Message
from grpo_tasks.sources import Row, Source, check_one_test, text_of, value_of
from grpo_tasks.splits import check_split
from grpo_tasks.templates import placeholders, render

BRACES = "Braces of prompt_template that name no column are written twice: '{{' and '}}'."
ROLES = ("system", "user", "assistant", "tool")


class Columns(BaseModel, frozen=True, extra="forbid"):
    """Which column holds what; `a.b` is field b of column a."""

    prompt: str = Field("prompt", description="text, or a list of chat messages")
    reference: str = Field("reference", description="what the verifier compares with")
    id: str | None = Field(None, description="unique in its split; unset: the row's number")
    meta: tuple[str, ...] = Field((), description="columns to keep with each prompt")


class Splits(BaseModel, frozen=True, extra="forbid"):
    """What the data set calls its splits; a single file has none."""

    train: str = "train"
    test: str = "test"


class Dataset:
    """Prompts and references from any columns of a data set.

    Format: one row a problem. The prompt is a column of text or of chat messages, or is made from
    several columns by `prompt_template`. The reference may be text, a number, or any structure that
    the verifier understands.

    Test rows are those of `test_path`; or the share `test_share` of train, chosen by a hash of the
    prompt's columns, so that equal prompts stay on one side; or, with neither set, the data set's
    own test split, and a tenth of the rows by hash where the data set is a single file.

    Source and licence: those of the data set.
    """

    version = "1.0"
    default_verifier = "math"
    splits: ClassVar[Sequence[str]] = ("train", "test")
    evaluation_split = "test"

    class Config(BaseModel, frozen=True, extra="forbid"):
        """Options."""

        path: str = Field(
            min_length=1, description="hub id, local .jsonl, .json, .parquet file, or folder"
        )
        config: str | None = Field(None, description="name of a configuration of the data set")
        splits: Splits = Field(Splits(), description="what the data set calls train and test")
        test_path: str | None = Field(None, description="where test is, if not in path")
        test_share: float | None = Field(
            None, gt=0, lt=1, description="share of the train rows held out by hash as test"
        )
        columns: Columns = Field(Columns(), description="which column holds what")
        prompt_template: str | None = Field(
            None, description="the user message; {column} is replaced. Unset: columns.prompt"
        )
        system_prompt: str | None = Field(None, description="a system message before the prompt")
        limit: PositiveInt | None = Field(None, description="only the first ones of each split")
        verifier: str = Field("math", description="verifier used unless the run names one")

        @model_validator(mode="after")
        def _one_test(self) -> Self:
            check_one_test(self.test_path, self.test_share)
            return self

        @model_validator(mode="after")
        def _no_leak(self) -> Self:
            reference = self.columns.reference
            for name in placeholders(self.prompt_template or ""):
                if f"{reference}.".startswith(f"{name}."):
                    raise ConfigError(
                        f"prompt_template must not show the reference, got '{{{name}}}'. {BRACES}"
                    )
            return self

    def __init__(self, config: Config) -> None:
        self.config = config
        self.default_verifier = config.verifier
        self._source = Source(
            config.path,
            config.config,
            config.splits.train,
            config.splits.test,
            config.test_path,
            config.test_share,
        )

    def load(self, split: str) -> Sequence[Prompt]:
        """The prompts of a split, in the order of the data set.

        Raises:
            DataError: if the data cannot be read, or a row has no prompt or reference.
            ConfigError: if a column does not exist.
        """
        check_split(split, self.splits)
        columns = self.config.columns
        asked = placeholders(self.config.prompt_template or "") or [columns.prompt]
        optional = [] if columns.id is None else [columns.id]
        rows = self._source.rows(
            split,
            (*asked, columns.reference, *optional, *columns.meta),
            lambda row: "\n".join(text_of(row, column) for column in asked),
            BRACES if self.config.prompt_template else "",
        )
        prompts: dict[str, Prompt] = {}
        for number, row in islice(rows, self.config.limit):
            prompt = self._prompt(number, row, split)
            if prompt.id in prompts:
                raise DataError(f"{self._where(number, split)}: id '{prompt.id}' occurs twice.")
            prompts[prompt.id] = prompt
        return list(prompts.values())

    def _where(self, number: int, split: str) -> str:
        return f"{self.config.path}, row {number} of {split}"

    def _prompt(self, number: int, row: Row, split: str) -> Prompt:
        columns, where = self.config.columns, self._where(number, split)
        reference = plain(value_of(row, columns.reference), where)
        if reference is None or reference in ("", [], {}):
            raise DataError(f"{where}: no reference (column '{columns.reference}' is empty).")
        return Prompt(
            id=f"{split}:{number}" if columns.id is None else text_of(row, columns.id),
            messages=self._messages(row, where),
            reference=reference,
            meta={column: plain(value_of(row, column), where) for column in columns.meta},
        )

    def _messages(self, row: Row, where: str) -> tuple[Message, ...]:
        template = self.config.prompt_template
        if template is None:
            messages = as_messages(value_of(row, self.config.columns.prompt), where)
        else:
            names = placeholders(template)
            for name in names:
                if value_of(row, name) is None:
                    raise DataError(f"{where}: column '{name}' of the prompt_template is empty.")
            text = render(template, {name: text_of(row, name) for name in names})
            messages = ({"role": "user", "content": text},)
        if self.config.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise ConfigError(f"{where}: has a system message already. Unset system_prompt.")
        return ({"role": "system", "content": self.config.system_prompt}, *messages)


def as_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Text, or a list of chat messages, as messages.

    Raises:
        DataError: if it is neither, is empty, or ends with the assistant's turn.
    """
    if isinstance(value, str) and value.strip():
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: the prompt must be text or messages, got {value!r:.80}.")
    for message in value:
        if (
            not isinstance(message, Mapping)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise DataError(
                f"{where}: a message needs a role ({', '.join(ROLES)}) and text content, "
                f"got {message!r:.80}."
            )
    if value[-1]["role"] == "assistant":
        raise DataError(f"{where}: the last message is the assistant's; nothing is left to answer.")
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def plain(value: Any, where: str) -> Json:
    """The value itself if it can be written as JSON.

    Raises:
        DataError: for dates, images, and the like.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    raise DataError(f"{where}: {type(value).__name__} is no plain value. Store it as text.")
