"""Build a pydantic model from user input, and say in plain words what is wrong with the input."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from grpo_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

# What pydantic names after Python's types, in the words of TOML.
_PLAIN = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a section of settings",
}


class Settings(BaseModel):
    """Base of every config section: frozen; unknown keys and infinite numbers are refused."""

    # A config is kept as JSON, which has no infinity.
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true where a number belongs; pydantic takes it as 1."""
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation in (int, float):
            raise ValueError(f"must be a number, got {value}.")
        return value


def build(model: type[Model], values: Mapping[str, Any], where: str = "") -> Model:
    """Validate `values` as a `model`.

    Args:
        model: a pydantic model.
        values: user input, keys as text.
        where: name of the place the values come from, put before each key in messages.

    Raises:
        ConfigError: one line for each problem: the key, the value, the rule, the nearest key.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(model, error.errors(), where))) from error


def _lines(model: type[BaseModel], problems: Iterable[ErrorDetails], where: str) -> list[str]:
    """A line for each problem; the alternatives of one value share theirs."""
    lines: list[str] = []
    rules: dict[str, tuple[int, list[str]]] = {}  # by key: the line and its alternatives
    for problem in problems:
        key = _key(problem, where)
        if not problem["msg"].startswith("Input should be "):
            lines.append(_explain(model, problem, key))
            continue
        at, found = rules.setdefault(key, (len(lines), []))
        found.append(_PLAIN.get(problem["type"], problem["msg"].removeprefix("Input should be ")))
        start = f"{key}: " if key else ""
        text = f"{start}must be {' or '.join(found)}, got {problem['input']!r:.200}."
        lines[at : at + 1] = [text]
    return lines


def _key(problem: ErrorDetails, where: str) -> str:
    """The setting's path, without the tags that pydantic puts in for types of a union."""
    path = [str(part) for part in problem["loc"] if not str(part).endswith("]")]
    return ".".join([where, *path] if where else path)


def _explain(model: type[BaseModel], problem: ErrorDetails, key: str) -> str:
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        names = sorted(_section(model, problem["loc"][:-1]).model_fields)
        near = _elsewhere(model, name) or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        return f"{key}: unknown setting.{hint} Available here: {', '.join(names) or 'none'}."
    if problem["type"] == "missing":
        return f"{key}: required, but not set."
    return (f"{key}: " if key else "") + problem["msg"].removeprefix("Value error, ")


def _elsewhere(model: type[BaseModel], name: str) -> list[str]:
    """Paths of the settings of that very name in the sections of a model."""
    sections = {key: field.annotation for key, field in model.model_fields.items()}
    return [
        f"{key}.{name}"
        for key, kind in sections.items()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields
    ]


def _section(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that `path` leads to, through nested models and lists of models."""
    for part in path:
        field = None if isinstance(part, int) else model.model_fields.get(part)
        inner = [] if field is None else _models_in(field.annotation)
        model = inner[0] if inner else model
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
