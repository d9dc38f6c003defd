"""JSON: the value a completion ends with keeps a JSON Schema, and holds what it should."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from grpo_core.errors import ConfigError, MissingExtraError, VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.json_schema.values import (
    ValueRefused,
    ValueUnreadable,
    equal,
    find_value,
    parse_value,
)
from grpo_verifiers.parts import MISSING, Part, read_part, shown

if TYPE_CHECKING:
    from grpo_core.testing import Example
    from grpo_verifiers.json_schema.schemas import Schema

_ABSENT = object()
_KINDS = {"object": "{", "array": "["}


def _pointers(fields: tuple[str, ...]) -> tuple[str, ...]:
    for field in fields:
        if "/" in field and not field.startswith("/"):
            raise ValueError(f"{field!r} is neither a name nor a JSON pointer such as '/a/0/b'.")
    return fields


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a value is held to: a schema, and the fields that must equal those of `value`."""

    schema: Schema | None
    value: Json
    fields: tuple[str, ...]

    @property
    def kinds(self) -> str:
        """The brackets a value may begin with."""
        wanted = self.schema.type if self.schema else ""
        return _KINDS.get(wanted, "{[")


class JsonSchemaVerifier:
    """Correct if the last JSON value of the completion keeps the schema and equals the reference.

    With the option `json_schema`, the reference is the value whose fields `equal` names. Without
    it, the reference is {"schema": .., "value": ..}, or one of them; it may be written as text.
    """

    version = "1.0"
    candidate_bears_limits = True

    class Config(BaseModel):
        """Options of the json_schema verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        json_schema: dict[str, Any] | None = Field(
            default=None, description="a JSON Schema; without it, the reference holds it"
        )
        equal: Annotated[tuple[str, ...], AfterValidator(_pointers)] = Field(
            default=(),
            description="fields that must equal the reference's, by name or JSON pointer "
            "(/a/0/b); '' is the whole value",
        )
        partial: bool = Field(
            default=False,
            description="where the schema is kept, the score is the share of fields that are equal",
        )
        alone: bool = Field(
            default=False, description="nothing but the value (and its fence) may be in the text"
        )
        check_formats: bool = Field(
            default=False, description='"format": "date" and the like are rules, not notes'
        )
        part: Part = "after_reasoning"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._schema: Schema | None = None
        if self.config.json_schema is not None:
            try:
                self._schema = self._read_schema(self.config.json_schema)
            except ValueError as error:
                raise ConfigError(f"json_schema.json_schema cannot be used: {error}.") from error

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def preload(self) -> None:
        """Import the validator once, before workers are forked, where it is installed."""
        if importlib.util.find_spec("jsonschema"):
            from grpo_verifiers.json_schema import schemas

            schemas.read_schema({}, check_formats=self.config.check_formats)

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would.

        Raises:
            VerifierError: if it holds neither a usable schema nor a value, or lacks a field.
            MissingExtraError: if it holds a schema and jsonschema is not installed.
        """
        self._rules(reference)

    def _judge(self, sample: Sample) -> Verdict:
        try:
            rules = self._rules(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        part = read_part(sample, self.config.part)
        if part is None:
            return Verdict.unparseable(MISSING[self.config.part])
        try:
            found = find_value(part, rules.kinds)
            value = parse_value(found.text)
        except ValueUnreadable as error:
            return Verdict.unparseable(str(error))
        except ValueRefused as error:
            return Verdict.wrong(f"the value is refused: {error}")
        details: dict[str, Json] = {"extracted": shown(found.text)}
        if self.config.alone and not found.is_alone:
            return Verdict.wrong("there is text around the value", details)
        try:
            faults = rules.schema.faults(value) if rules.schema else []
        except VerifierError as error:
            return Verdict.error(str(error), details)
        if faults:
            details["faults"] = faults
            return Verdict.wrong(f"the schema is not kept: {faults[0]}", details)
        return self._compare(rules, value, details)

    def _compare(self, rules: _Rules, value: Json, details: dict[str, Json]) -> Verdict:
        differing = [
            field
            for field in rules.fields
            if (there := get_field(value, field)) is _ABSENT
            or not equal(there, get_field(rules.value, field))
        ]
        if not differing:
            return Verdict.correct("the value is right", details)
        details["differing"] = list(differing)
        share = 1 - len(differing) / len(rules.fields) if self.config.partial else 0.0
        names = ", ".join(field or "the value" for field in differing[:5])
        return Verdict.wrong(f"not equal to the reference: {names}", details, share)

    def _rules(self, reference: Json) -> _Rules:
        if self._schema and not self.config.equal:
            return _Rules(self._schema, None, ())
        values = _read_text(reference)
        if self._schema:
            return self._with_fields(self._schema, values, reference)
        if not isinstance(values, Mapping) or not values or not set(values) <= {"schema", "value"}:
            form = '{"schema": .., "value": ..}, or one of them'
            rule = "a value alone is compared where the option json_schema is set"
            raise _unreadable(reference, f"it must be {form}; {rule}")
        schema = None
        if "schema" in values:
            try:
                schema = self._read_schema(values["schema"])
            except ValueError as error:
                raise _unreadable(reference, f"its schema cannot be used: {error}") from error
        if "value" not in values:
            if self.config.equal:
                raise _unreadable(reference, "it has no 'value' to compare with")
            return _Rules(schema, None, ())
        return self._with_fields(schema, values["value"], reference)

    def _with_fields(self, schema: Schema | None, value: Json, reference: Json) -> _Rules:
        fields = self.config.equal or ("",)
        for field in fields:
            if get_field(value, field) is _ABSENT:
                raise _unreadable(reference, f"it has no field '{field}' to compare with")
        return _Rules(schema, value, fields)

    def _read_schema(self, schema: Json) -> Schema:
        if importlib.util.find_spec("jsonschema") is None:
            raise MissingExtraError("the verifier 'json_schema' with a schema", "json")
        from grpo_verifiers.json_schema.schemas import read_schema

        return read_schema(schema, check_formats=self.config.check_formats)

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_verifiers.json_schema.examples import EXAMPLES

        return EXAMPLES


def get_field(value: Json, field: str) -> Json:
    """What stands at a name, or at a JSON pointer (RFC 6901), of a value; `_ABSENT` if nothing."""
    if not field:
        return value
    steps = field[1:].split("/") if field.startswith("/") else [field]
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name[:9]) < len(value):
            value = value[int(name[:9])]
        else:
            return _ABSENT
    return value


def _read_text(reference: Json) -> Json:
    """A reference that is written as JSON text, read."""
    if not isinstance(reference, str) or reference.lstrip()[:1] not in ("{", "["):
        return reference
    try:
        return parse_value(reference)
    except (ValueUnreadable, ValueRefused) as error:
        raise _unreadable(reference, str(error)) from error


def _unreadable(reference: Json, why: str) -> VerifierError:
    return VerifierError(
        f"the reference {reference!r:.200} cannot be read: {why}. Correct or drop this row of the "
        "data set."
    )
