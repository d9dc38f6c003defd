"""The options of a plugin, written for people."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_SIGNS = (
    ("gt", ">"),
    ("ge", ">="),
    ("lt", "<"),
    ("le", "<="),
    ("multiple_of", "a multiple of"),
    ("min_length", "length >="),
    ("max_length", "length <="),
    ("pattern", "matching"),
)


def option_fields(config: type[BaseModel] | None, prefix: str = "") -> list[dict[str, Any]]:
    """Name, type, default, and description of each option; defaults as Python would write them.

    Options of a section are named as `--set` reaches them: `limits.deadline`.
    """
    found: list[dict[str, Any]] = []
    for name, field in ({} if config is None else config.model_fields).items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += option_fields(field.annotation, f"{prefix}{name}.")
            continue
        found.append(
            {
                "name": f"{prefix}{name}",
                "type": f"{type_text(field.annotation)}{_limits(field.metadata)}",
                "required": field.is_required(),
                "default": _default(field),
                "description": field.description or "",
            }
        )
    return found


def type_text(annotation: Any) -> str:
    """A type as one would write it, limits in brackets: int (> 0) | None."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Ellipsis:
        return "..."
    if annotation in (None, types.NoneType):
        return "None"
    if origin is Annotated:
        return f"{type_text(arguments[0])}{_limits(arguments[1:])}"
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, arguments))
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is not None:
        return f"{type_text(origin)}[{', '.join(map(type_text, arguments))}]"
    return str(getattr(annotation, "__name__", annotation))


def _limits(metadata: Iterable[Any]) -> str:
    """What pydantic and annotated_types say about values, in brackets; empty for nothing."""
    found = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found += [text for text in [_limits(item.metadata).strip(" ()")] if text]
            continue
        for name, sign in _SIGNS:
            value = getattr(item, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str | None:
    return None if field.is_required() else repr(field.get_default(call_default_factory=True))
