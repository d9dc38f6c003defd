"""The json_schema verifier: which value is read, how strictly, and what it is compared with."""

from __future__ import annotations

import importlib.util
import json
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from grpo_core import Sample
from grpo_core.errors import ConfigError, MissingExtraError, VerifierError
from grpo_core.testing import check_conformance, check_verifier
from grpo_core.types import Json, Verdict
from grpo_verifiers.json_schema import JsonSchemaVerifier
from grpo_verifiers.json_schema.values import ValueUnreadable, equal, find_value, parse_value
from grpo_verifiers.json_schema.verifier import get_field
from grpo_verifiers.reasoning import after_reasoning

PERSON: dict[str, Json] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ANN = '{"name": "Ann", "age": 7}'
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
needs_jsonschema = pytest.mark.skipif(
    importlib.util.find_spec("jsonschema") is None,
    reason="jsonschema is not installed: pip install 'grpo-core[json]'",
)


def judge(completion: str, reference: Json = None, **options: Any) -> Verdict:
    verifier = JsonSchemaVerifier(JsonSchemaVerifier.Config(**options))
    [verdict] = verifier.verify([Sample("", completion, reference)])
    return verdict


@pytest.mark.slow
@needs_jsonschema
def test_conformance() -> None:
    check_conformance("json_schema")


@needs_jsonschema
def test_contract() -> None:
    check_verifier(
        JsonSchemaVerifier,
        accept=[(ANN, ""), (f"So:\n```json\n{ANN}\n```", ""), ('{"age": 7.0, "name": ""}', "")],
        reject=[("{}", ""), ('{"name": "Ann", "age": "7"}', ""), ("Ann", ""), ("[1]", "")],
        options={"json_schema": PERSON},
    )


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (ANN, ANN),
        ("3", "3"),
        ('"a"', '"a"'),
        (f"First {{}}, then {ANN}.", ANN),
        (f"{ANN} as in [1, 2].", "[1, 2]"),
        ("The set {1, 2} and [see] [1]", "[1]"),
        (f"```json\n{ANN}\n```\nor [1]", ANN),
        (f"```\n{ANN}\n```", ANN),
        (f"```python\nx = 1\n```\n{ANN}", ANN),
        ("```json\n[1]\n```\nor\n~~~json\n[2]\n~~~", "[2]"),
        ("```json\n[1]\n```\n```python\n[2]\n```", "[1]"),
        ('{"a": "}{", "b": "\\"}"} ok', '{"a": "}{", "b": "\\"}"}'),
        ('{ "unclosed\n{"a": 1}', '{"a": 1}'),
        ("```json [3]```", "[3]"),
    ],
)
def test_which_value_is_read(completion: str, value: str) -> None:
    assert find_value(completion).text == value


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("Ann", "no JSON value"),
        ("", "no JSON value"),
        ("{1, 2}", "no JSON value"),
        ('{"name": "Ann", "age": 7', "cut off"),
        ('[1] {"name": "An', "cut off"),
        (f"{ANN}\n```json\n{{", "cut off"),
        ("{'a': 1}", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ('{"a": 1, "a": 1}', "'a' stands twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "too large"),
        (f'{{"a": {"9" * 301}}}', "more than 300 digits"),
        ("```json\nnot json\n```", "not JSON"),
    ],
)
def test_what_is_unparseable(completion: str, why: str) -> None:
    with pytest.raises(ValueUnreadable, match=why):
        parse_value(find_value(completion).text)
    reference: Json = {"value": {"a": 1}}
    assert judge(completion, reference).status == "unparseable"


@given(VALUES, st.sampled_from(["{}", "So: {}", "```json\n{}\n```", "<think>[0]</think>{}"]))
def test_any_value_is_read_back(value: Json, frame: str) -> None:
    text = json.dumps(value)
    assume(after_reasoning(text) == text)  # tags of reasoning count wherever they stand
    if isinstance(value, dict | list) or frame != "So: {}":
        assert judge(frame.replace("{}", text), {"value": value}).is_correct


@given(VALUES, VALUES)
def test_equality_is_that_of_json(left: Json, right: Json) -> None:
    assert equal(left, left) and equal(left, right) == equal(right, left)
    assert equal(left, json.loads(json.dumps(left)))
    if json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True):
        assert equal(left, right)


def test_numbers_and_truths() -> None:
    assert equal(1, 1.0) and equal([{"a": 2.0}], [{"a": 2}])
    assert not equal(1, True) and not equal(0, False) and not equal("1", 1)
    assert not equal(10**20, 10**20 + 1) and not equal([1, 2], [2, 1]) and not equal(None, 0)


@pytest.mark.parametrize(
    ("field", "found"),
    [("a", {"b/c": [10, 20]}), ("/a/b~1c/1", 20), ("/a/b~1c/2", None), ("x", None), ("/a/9", None)],
)
def test_fields(field: str, found: Json) -> None:
    value: Json = {"a": {"b/c": [10, 20]}}
    there = get_field(value, field)
    assert there == found if found is not None else not isinstance(there, int | dict)
    assert get_field(value, "") is value


def test_fields_must_equal_the_references() -> None:
    options: dict[str, Any] = {"equal": ["name", "/tags/0"]}
    reference: Json = {"value": {"name": "Ann", "tags": ["a", "b"], "more": 1}}
    assert judge('{"name": "Ann", "tags": ["a"]}', reference, **options).is_correct
    verdict = judge('{"name": "Al", "tags": ["a"]}', reference, partial=True, **options)
    assert (verdict.status, verdict.score) == ("wrong", 0.5)
    assert verdict.details["differing"] == ["name"]
    assert judge('{"name": "Ann"}', reference, **options).score == 0
    assert judge(f"{ANN} ok", '{"value": {"age": 7, "name": "Ann"}}').is_correct


def test_nothing_else_may_be_there() -> None:
    reference: Json = {"value": [1]}
    for text in ("[1]", "```json\n[1]\n```", " [1]\n", "<think>hm</think>[1]"):
        assert judge(text, reference, alone=True).is_correct, text
    for text in ("So [1]", "```json\n[1]\n```\ndone", "[1] [1]"):
        assert judge(text, reference, alone=True).status == "wrong", text


def test_nesting_is_limited() -> None:
    deep = '{"a":' * 99 + "1" + "}" * 99
    assert judge(deep, {"value": json.loads(deep)}).is_correct
    verdict = judge('{"a":' * 30_000 + "1" + "}" * 30_000, {"value": 1})
    assert verdict.status == "wrong" and "100 levels" in verdict.reason


@needs_jsonschema
def test_schemas() -> None:
    schema: dict[str, Json] = {"schema": PERSON}
    assert judge(ANN, schema).is_correct
    assert judge(ANN, json.dumps(schema)).is_correct
    assert judge(f"{ANN} as in [1].", schema).is_correct  # the schema asks for an object
    verdict = judge('{"name": 1, "age": "x", "more": 1}', schema)
    assert verdict.status == "wrong" and len(verdict.details["faults"]) == 3
    assert judge(ANN, schema | {"value": {"name": "Ann", "age": 8}}).status == "wrong"
    fields: dict[str, Any] = {"json_schema": PERSON, "equal": ["age"]}
    assert judge(ANN, {"age": 7}, **fields).is_correct
    assert judge(ANN, {"age": 8}, **fields).status == "wrong"


@needs_jsonschema
def test_formats_are_notes_unless_asked_for() -> None:
    schema = {"type": "string", "format": "date"}
    assert judge('"2026-13-01"', json_schema=schema).is_correct
    assert judge('"2026-13-01"', json_schema=schema, check_formats=True).status == "wrong"
    assert judge('"2026-11-22"', json_schema=schema, check_formats=True).is_correct


@needs_jsonschema
@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "person"}, "not valid"),
        ({"minimum": "a"}, "not of type"),
        ({"$ref": "#"}, "itself"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "does not hold"),
        ({"properties": {"a": {"items": {"$ref": "#/$defs/no"}}}}, "does not hold"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "exponential"),
        ({"patternProperties": {"(a|a)*b": {}}}, "exponential"),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Json], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        judge("{}", json_schema=schema)
    with pytest.raises(VerifierError, match=why):
        JsonSchemaVerifier().check_reference({"schema": schema})


@needs_jsonschema
def test_schemas_that_are_not() -> None:
    for schema in (
        {},
        {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}}},
        {"$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}, "$ref": "#/$defs/tree"},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}}},
    ):
        assert judge("{}", json_schema=schema).is_correct, schema


@needs_jsonschema
def test_a_reference_that_loops_only_for_some_values() -> None:
    schema = {"properties": {"q": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}}
    assert judge("{}", json_schema=schema).is_correct
    assert judge('{"q": 1}', json_schema=schema).status == "error"


@pytest.mark.parametrize(
    "reference",
    [None, 1, "x", [], {}, {"value": 1, "more": 2}, "{", '{"a": 1, "a": 2}', {"schema": []}],
)
def test_references_that_are_refused(reference: Json) -> None:
    if reference == {"schema": []} and not importlib.util.find_spec("jsonschema"):
        pytest.skip("jsonschema is not installed")
    with pytest.raises(VerifierError, match="cannot be read"):
        JsonSchemaVerifier().check_reference(reference)
    assert judge("{}", reference).status == "error"


def test_a_value_alone_names_the_option_that_takes_it() -> None:
    with pytest.raises(VerifierError, match="where the option json_schema is set"):
        JsonSchemaVerifier().check_reference({"answer": 3})


def test_a_field_that_the_reference_lacks() -> None:
    for reference in ({"value": {"b": 1}}, {"value": 3}):
        assert judge('{"a": 1}', reference, equal=["a"]).status == "error"


def test_options_are_checked() -> None:
    with pytest.raises(ValidationError, match="neither a name nor a JSON pointer"):
        JsonSchemaVerifier.Config(equal=["a/b"])


def test_without_the_library_values_are_still_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> Any:
        return None if name == "jsonschema" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert judge("[1]", {"value": [1]}).is_correct
    JsonSchemaVerifier().preload()
    with pytest.raises(MissingExtraError, match=r"pip install 'grpo-core\[json\]'"):
        judge("{}", json_schema=PERSON)
    with pytest.raises(MissingExtraError):
        JsonSchemaVerifier().check_reference({"schema": PERSON})


def test_hostile_texts_cost_little() -> None:
    hostile = [
        "{" * 50_000, "[" * 50_000, '"' * 50_000, '{"' * 25_000, '{"a' + '\n{"a' * 12_000,
        "[1]" * 16_000, "[1," * 16_000 + "]" * 16_000, "{}" * 25_000, "```json\n" * 6_000,
        "```\n" * 12_000, '{"' + "\\" * 50_000, "[" + '"a",' * 12_000, "[]][" * 12_000, "~" * 9000,
        "{" + ",".join(f'"k{i}":1' for i in range(5_000)) + ',"k9":1}',
    ]  # fmt: skip
    started = time.process_time()
    for text in hostile:
        judge(text, {"value": 1})
    assert time.process_time() - started < 60  # about one second; quadratic ones take minutes
