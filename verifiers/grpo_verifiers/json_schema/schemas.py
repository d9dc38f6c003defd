"""JSON Schemas, checked when they are read; validation itself is the library `jsonschema`'s."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema
import referencing
import referencing.exceptions
import referencing.jsonschema
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY

from grpo_core.errors import VerifierError
from grpo_core.types import Json
from grpo_verifiers.regex.patterns import PatternError, compile_pattern

_MAX_FAULTS = 5
_MAX_FAULT_CHARS = 200
# Small values of each type: trying them finds references that lead nowhere, or to themselves.
_PROBES: tuple[Json, ...] = (None, True, 0, 0.5, "", [], {}, [[]], [{}], {"": None})


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that can be used.

    Attributes:
        type: "object" or the like, if the schema asks for that alone.
    """

    type: str
    _validator: Any

    def faults(self, value: Json) -> list[str]:
        """What is wrong with a value, at most five sentences; none if the schema is kept.

        Raises:
            VerifierError: if the schema refers to what it does not hold.
        """
        try:
            found = list(islice(self._validator.iter_errors(value), _MAX_FAULTS))
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise VerifierError(f"the schema cannot be followed: {error!r:.200}") from error
        return [f"{error.json_path}: {error.message}"[:_MAX_FAULT_CHARS] for error in found]


def read_schema(schema: Json, *, check_formats: bool = False) -> Schema:
    """A schema that is valid in its draft (by default 2020-12), whole, and of bearable cost.

    Raises:
        ValueError: saying why it cannot be used.
    """
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object, got {schema!r:.80}")
    try:
        return _read(json.dumps(schema), check_formats)
    except RecursionError as error:
        raise ValueError("it refers to itself for ever") from error


@lru_cache(maxsize=256)
def _read(text: str, check_formats: bool) -> Schema:
    schema = json.loads(text)
    draft = validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        draft.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"{error.json_path}: {error.message:.200}") from error
    for pattern in _patterns(schema):
        try:
            compile_pattern(pattern, False, "search")
        except PatternError as error:
            raise ValueError(f"a pattern of it: {error}") from error
    checker = draft.FORMAT_CHECKER if check_formats else None
    # A registry of its own, because the library's default one fetches from the network.
    validator = draft(schema, registry=REGISTRY, format_checker=checker)
    try:
        _resolve(schema)
        for probe in _PROBES:
            list(validator.iter_errors(probe))
    except referencing.exceptions.Unresolvable as error:
        raise ValueError(f"it refers to {error.ref!r:.200}, which it does not hold") from error
    kind = schema.get("type")
    return Schema(kind if isinstance(kind, str) else "", validator)


def _resolve(schema: dict[str, Json]) -> None:
    """Look up every reference, unless parts of the schema have names of their own."""
    parts = list(_parts(schema))
    if any("$id" in part for part in parts[1:]):
        return  # the probes and validation itself find those that lead nowhere
    resource = referencing.Resource.from_contents(
        schema, default_specification=referencing.jsonschema.DRAFT202012
    )
    resolver = REGISTRY.resolver_with_root(resource)
    for part in parts:
        if isinstance(reference := part.get("$ref"), str):
            resolver.lookup(reference)


def _patterns(schema: Json) -> Iterator[str]:
    """The regular expressions in a schema."""
    for part in _parts(schema):
        if isinstance(pattern := part.get("pattern"), str):
            yield pattern
        if isinstance(properties := part.get("patternProperties"), dict):
            yield from properties


def _parts(value: Json) -> Iterator[dict[str, Json]]:
    """All objects in a value, the outermost first."""
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item)
