"""Build a pydantic model from user input, and say in plain words what is wrong with the input."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from grpo_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """Base of every config section: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


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
        lines = [_explain(model, problem, where) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _explain(model: type[BaseModel], problem: ErrorDetails, where: str) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join([where, *path] if where else path)
    if problem["type"] == "extra_forbidden":
        names = sorted(_section(model, problem["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"{key}: unknown setting.{hint} Available here: {', '.join(names) or 'none'}."
    if problem["type"] == "missing":
        return f"{key}: required, but not set."
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    start = f"{key}: " if key else ""
    if problem["msg"].startswith("Input should be "):
        return f"{start}must be {message}, got {problem['input']!r:.200}."
    return start + message


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
