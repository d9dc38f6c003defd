"""Examples with a known verdict: the golden table of a verifier, which its author writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from grpo_core.errors import DataError
from grpo_core.types import Json, Sample, Status

DEFAULT_PROMPT = "Answer the question."
_SYNONYMS = {"accept": "correct", True: "correct", False: "reject"}
_EXPECTED = (*map(str, Status), "reject", "any")


@dataclass(frozen=True, slots=True)
class Example:
    """One line of a golden table.

    Attributes:
        expected: a status; or "reject", which is wrong or unparseable; or "any", which claims
            nothing. True and "accept" mean "correct", False means "reject". "error" says that the
            reference is unreadable.
        options: of the verifier, over those that the whole table is checked with.
        score: the score, where it is known.

    Raises:
        DataError: if `expected` is none of these.
    """

    completion: str
    reference: Json
    expected: str | bool
    prompt: str = DEFAULT_PROMPT
    options: Mapping[str, Any] = field(default_factory=dict)
    score: float | None = None
    meta: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = _SYNONYMS.get(self.expected, self.expected)
        if expected not in _EXPECTED:
            raise DataError(
                f"expected must be one of {', '.join(_EXPECTED)}, or true or false, got "
                f"{self.expected!r:.80}."
            )
        if not isinstance(self.completion, str) or not isinstance(self.prompt, str):
            raise DataError(f"completion and prompt must be text, got {self.completion!r:.80}.")
        object.__setattr__(self, "expected", str(expected))

    def sample(self, reads: Sequence[str] = ()) -> Sample:
        """What the verifier gets; `reads` as verifiers declare it."""
        return make_sample(self.prompt, self.completion, self.reference, self.meta, reads)

    def __str__(self) -> str:
        return f"completion {self.completion!r:.200} with reference {self.reference!r:.200}"


def make_sample(
    prompt: str,
    completion: str,
    reference: Json,
    meta: Mapping[str, Json],
    reads: Sequence[str],
) -> Sample:
    """A sample with those large fields that the verifier reads; a token is a byte of text."""
    messages = ({"role": "user", "content": prompt},) if "messages" in reads else ()
    tokens = tuple(completion.encode("utf-8", "replace")) if "token_ids" in reads else ()
    return Sample(prompt, completion, reference, dict(meta), messages, tokens)


def shipped_examples(verifier: Any) -> list[Example]:
    """The examples that a verifier brings along: its attribute `examples`, called if it can be.

    Raises:
        DataError: if they are no examples.
    """
    shipped = getattr(verifier, "examples", ())
    if callable(shipped):
        shipped = shipped()
    examples = list(shipped)
    for example in examples:
        if not isinstance(example, Example):
            raise DataError(
                f"examples of a verifier must be grpo_core.testing.Example, got {example!r:.80}."
            )
    return examples


def read_examples(lines: Iterable[str], origin: str) -> list[Example]:
    """Examples from JSON lines: {"completion", "reference", "expected"} and the other fields.

    Raises:
        DataError: naming the first line that is none, or that there are none.
    """
    examples = [
        _read_line(line, f"line {number} of {origin}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not examples:
        raise DataError(f"{origin} holds no examples.")
    return examples


def _read_line(line: str, where: str) -> Example:
    known = [item.name for item in fields(Example)]
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise DataError(f"{where} is no JSON object, got {values!r:.80}.")
    for key in ("completion", "reference", "expected"):
        if key not in values:
            raise DataError(f"{where} has no '{key}'. Each line has: {', '.join(known)}.")
    for key in ("options", "meta"):
        if not isinstance(values.get(key, {}), dict):
            raise DataError(f"{where}: '{key}' must be an object, got {values[key]!r:.80}.")
    try:
        return Example(**{key: value for key, value in values.items() if key in known})
    except (DataError, TypeError) as error:
        raise DataError(f"{where}: {error}") from error


def to_json(examples: Sequence[Example]) -> list[Json]:
    """Examples as plain values; `Example(**value)` is the inverse."""
    return [asdict(example) for example in examples]
