"""Examples: how they are written, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.errors import DataError
from grpo_core.testing import Example
from grpo_core.testing.example import read_examples, shipped_examples, to_json


def test_a_line_is_read() -> None:
    line = '{"completion": "a", "reference": {"b": 1}, "expected": true, "id": 7, "meta": {"x": 1}}'
    [example] = read_examples(["", line, "  "], "pairs.jsonl")
    assert example == Example("a", {"b": 1}, "correct", meta={"x": 1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of pairs.jsonl is not JSON"),
        ("[]", "line 2 of pairs.jsonl is no JSON object, got \\[\\]"),
        ('{"completion": "a", "reference": 1}', "line 2 of pairs.jsonl has no 'expected'"),
        (
            '{"completion": "a", "reference": 1, "expected": "yes"}',
            "line 2.*must be one of",
        ),
        ('{"completion": "a", "reference": 1, "expected": []}', "line 2 of pairs.jsonl"),
        ('{"completion": 1, "reference": 1, "expected": true}', "must be text, got 1"),
        (
            '{"completion": "a", "reference": 1, "expected": true, "options": []}',
            "'options' must be an object",
        ),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    good = '{"completion": "a", "reference": "a", "expected": true}'
    with pytest.raises(DataError, match=message):
        read_examples([good, line], "pairs.jsonl")


def test_no_lines_are_refused() -> None:
    with pytest.raises(DataError, match=r"pairs.jsonl holds no examples"):
        read_examples(["", " "], "pairs.jsonl")


@pytest.mark.parametrize(
    ("written", "means"),
    [(True, "correct"), ("accept", "correct"), (False, "reject"), ("wrong", "wrong")],
)
def test_synonyms(written: Any, means: str) -> None:
    assert Example("", "", written).expected == means


def test_examples_are_shipped_as_list_or_function() -> None:
    examples = [Example("a", "a", True)]

    class AsList:
        pass

    AsList.examples = examples  # type: ignore[attr-defined]

    class AsMethod:
        @classmethod
        def examples(cls) -> list[Example]:
            return examples

    assert shipped_examples(AsList) == shipped_examples(AsMethod) == examples
    assert shipped_examples(object) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x), max_leaves=5
)


@given(st.text(st.characters()), json_values, st.sampled_from(["correct", "reject", "any"]))
def test_examples_travel_as_json(completion: str, reference: Any, expected: str) -> None:
    example = Example(completion, reference, expected)
    [value] = json.loads(json.dumps(to_json([example])))
    assert Example(**value) == example


def test_a_sample_has_what_the_verifier_reads() -> None:
    example = Example("é", "x", True, "Why?")
    assert example.sample().messages == () and example.sample().token_ids == ()
    sample = example.sample(("messages", "token_ids"))
    assert sample.messages == ({"role": "user", "content": "Why?"},)
    assert sample.token_ids == (0xC3, 0xA9)
