"""Completions whose verdict by the json_schema verifier is known."""

from __future__ import annotations

import importlib.util

from grpo_core.testing import Example
from grpo_core.types import Json

_PERSON: dict[str, Json] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
}
_ANN: dict[str, Json] = {"value": {"name": "Ann", "age": 7}}
_PROMPT = "Who is it? Answer in JSON, such as {'name': .., 'age': ..}."
_SCHEMA: dict[str, Json] = {"schema": _PERSON}
_PARTIAL = {"equal": ["name", "age"], "partial": True}

_PLAIN = [
    Example('{"name": "Ann", "age": 7}', _ANN, "correct", _PROMPT),
    Example(
        'It is\n```json\n{"age": 7.0, "name": "Ann"}\n```\nas asked.', _ANN, "correct", _PROMPT
    ),
    Example('First {"name": "Al", "age": 1}. No: {"name": "Ann", "age": 7}', _ANN, "correct"),
    Example('<think>{"age": 7}</think>[1, 2]', '{"value": [1, 2]}', "correct"),
    Example('{"name": "Ann", "age": 8}', _ANN, "wrong", _PROMPT),
    Example('{"name": "Ann", "age": 8}', _ANN, "wrong", options=_PARTIAL, score=0.5),
    Example('{"name": "Ann", "age": true}', {"value": {"name": "Ann", "age": 1}}, "wrong"),
    Example('[{"name": "Ann", "age": 7}, {"name": "Al", "age": 7}]', _ANN, "wrong", _PROMPT),
    Example('Sure: {"name": "Ann", "age": 7}', _ANN, "wrong", options={"alone": True}),
    Example('{"name": "Ann", "name": "Ann", "age": 7}', _ANN, "unparseable", _PROMPT),
    Example('{"name": "Ann", "age": NaN}', _ANN, "unparseable", _PROMPT),
    Example("{'name': 'Ann', 'age': 7}", _ANN, "unparseable", _PROMPT),
    Example('{"name": "Ann", "age": 7', _ANN, "unparseable", _PROMPT),
    Example("Ann is 7.", _ANN, "unparseable", _PROMPT),
    Example('{"name": "Ann", "age": 7}', {"name": "Ann"}, "error"),
]
_WITH_SCHEMA = [
    Example('{"name": "Ann", "age": 7}', _SCHEMA, "correct", _PROMPT),
    Example('{"name": "Ann", "age": 7}', {**_SCHEMA, **_ANN}, "correct", _PROMPT),
    Example('{"name": "Ann", "age": -7}', _SCHEMA, "wrong", _PROMPT),
    Example('{"name": "Ann"}', _SCHEMA, "wrong", _PROMPT),
    Example('{"name": "Ann"}', {"schema": {"type": "person"}}, "error"),
    Example('{"name": "Ann"}', {"schema": {"$ref": "#/$defs/person"}}, "error"),
]
EXAMPLES = _PLAIN + (_WITH_SCHEMA if importlib.util.find_spec("jsonschema") else [])
