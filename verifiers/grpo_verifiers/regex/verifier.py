"""Regular expressions: what a completion must match, must not match, and must say in a group.

The patterns are the user's (or the data set's), the texts a model's. `patterns` refuses
patterns that take exponential time; texts are cut to their last 50,000 characters. Where a call
runs out of time all the same, the completion is to blame (`candidate_bears_limits`): its pattern
has been tried, and a policy must not learn to hide from a verdict behind timeouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import ConfigError, VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.parts import MISSING, Part, read_part, shown
from grpo_verifiers.regex.patterns import Mode, PatternError, compile_pattern

if TYPE_CHECKING:
    import re

    from grpo_core.testing import Example

Patterns = str | tuple[str, ...]
Group = str | int

_MAX_CHARS = 50_000  # of the end of a completion
_KEYS = ("pattern", "must_not", "group", "answer")


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a completion is held to."""

    must: tuple[re.Pattern[str], ...]
    must_not: tuple[re.Pattern[str], ...]
    group: Group | None
    answer: str


class RegexVerifier:
    r"""Correct if the completion matches all patterns, none that it must not, and says the answer.

    With `group`, the text of that group of the first pattern must equal the reference. Without the
    option `pattern`, the reference is a pattern, or {"pattern": .., "must_not": .., "group": ..,
    "answer": ..}; a pattern may be a list of patterns.

    Anchor patterns: "answer: ([0-9]+)" takes "answer: 42 or 43" for 42, and with `\s*\Z` at its
    end it does not.
    """

    version = "1.0"
    candidate_bears_limits = True

    class Config(BaseModel):
        """Options of the regex verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        pattern: Patterns = Field(
            default=(),
            description="what must match, in Python's syntax: one pattern, or a list all of which "
            "must match; without it, the reference holds the pattern",
        )
        must_not: Patterns = Field(
            default=(), description="what must be found nowhere: a pattern, or a list of them"
        )
        mode: Mode = Field(
            default="search",
            description="search: anywhere in the text; match: from its beginning; fullmatch: the "
            "whole text",
        )
        group: Group | None = Field(
            default=None,
            description="name or number of the group of the first pattern that must equal the "
            "reference",
        )
        occurrence: Literal["last", "first", "only"] = Field(
            default="last",
            description="which match counts for the group, where mode is search; only: several "
            "matches with different texts are wrong",
        )
        ignore_case: bool = Field(
            default=False, description="A equals a, in patterns and in the comparison"
        )
        part: Part = "after_reasoning"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._must: tuple[re.Pattern[str], ...] = ()
        try:
            if _listed(self.config.pattern):
                self._must = self._compiled(self.config.pattern, self.config.group)
            self._must_not = self._forbidden(self.config.must_not)
        except PatternError as error:
            raise ConfigError(f"regex: {error}.") from error
        if self.config.group is not None and not self._must:
            raise ConfigError(
                f"regex.group is {self.config.group!r}, but there is no regex.pattern that could "
                "have it. Set regex.pattern, or put the group into the references, too."
            )

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would, and try its patterns.

        Raises:
            VerifierError: if it holds no usable pattern, or no text to compare a group with.
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
        text = part[-_MAX_CHARS:]
        for pattern in rules.must_not:
            if found := pattern.search(text):
                details = {"found": shown(found.group())}
                return Verdict.wrong(f"{pattern.pattern!r:.200} must not match", details)
        first, *others = rules.must
        for pattern in others if rules.group is not None else rules.must:
            if not getattr(pattern, self.config.mode)(text):
                return Verdict.wrong(f"{pattern.pattern!r:.200} does not match")
        if rules.group is None:
            return Verdict.correct("all patterns match")
        found_texts = self._group_texts(first, rules.group, text)
        return self._compare(found_texts, rules.answer)

    def _compare(self, found: list[str], answer: str) -> Verdict:
        """The verdict on the texts of the group, as the completion has them."""
        if not found:
            return Verdict.unparseable("the group matches nothing", {"expected": shown(answer)})
        details = {"extracted": shown(found[-1]), "expected": shown(answer)}
        if len({self._normal(text) for text in found}) > 1:
            return Verdict.wrong("the pattern matches several times, with different texts", details)
        if self._normal(found[0]) == self._normal(answer):
            return Verdict.correct("the group equals the reference", details)
        return Verdict.wrong(f"expected {answer[:80]!r}, got {found[0][:80]!r}", details)

    def _group_texts(self, pattern: re.Pattern[str], group: Group, text: str) -> list[str]:
        """The texts of the group that count: one, or with `only` all of them."""
        if self.config.mode == "search":
            matches = list(pattern.finditer(text))
        else:
            match = getattr(pattern, self.config.mode)(text)
            matches = [match] if match else []
        texts = [match.group(group) for match in matches if match.group(group) is not None]
        if self.config.occurrence == "only":
            return texts
        return texts[:1] if self.config.occurrence == "first" else texts[-1:]

    def _normal(self, text: str) -> str:
        return text.strip().casefold() if self.config.ignore_case else text.strip()

    def _rules(self, reference: Json) -> _Rules:
        if self._must:
            answer = "" if self.config.group is None else _answer(reference)
            return _Rules(self._must, self._must_not, self.config.group, answer)
        values = {"pattern": reference} if isinstance(reference, str | list) else reference
        if not isinstance(values, Mapping) or not {"pattern"} <= set(values) <= set(_KEYS):
            raise _unreadable(reference, f"it must be a pattern, or an object of {_KEYS}")
        group = values.get("group")
        if (group is None) != ("answer" not in values):
            raise _unreadable(reference, "'group' and 'answer' go together")
        if isinstance(group, bool) or not isinstance(group, str | int | None):
            raise _unreadable(reference, "'group' is a name or a number")
        try:
            must = self._compiled(_patterns(values["pattern"]), group)
            must_not = self._forbidden(_patterns(values.get("must_not", [])))
        except PatternError as error:
            raise _unreadable(reference, str(error)) from error
        answer = "" if group is None else _answer(values["answer"])
        return _Rules(must, (*self._must_not, *must_not), group, answer)

    def _compiled(self, patterns: Patterns, group: Json) -> tuple[re.Pattern[str], ...]:
        """Patterns that must match.

        Raises:
            PatternError: if one cannot be used, all match the empty text, or the group is missing.
        """
        options = self.config
        compiled = tuple(
            compile_pattern(pattern, options.ignore_case, options.mode)
            for pattern in _listed(patterns)
        )
        if not compiled:
            raise PatternError("there is no pattern")
        if group is not None:
            groups = {*compiled[0].groupindex, *range(compiled[0].groups + 1)}
            if group not in groups:
                raise PatternError(f"{compiled[0].pattern!r:.200} has no group {group!r:.80}")
        elif all(pattern.search("") for pattern in compiled):
            raise PatternError(
                f"{compiled[0].pattern!r:.200} matches the empty text, so that every completion "
                "would be correct. Ask for something; what must not be there goes into must_not"
            )
        return compiled

    def _forbidden(self, patterns: Patterns) -> tuple[re.Pattern[str], ...]:
        return tuple(
            compile_pattern(pattern, self.config.ignore_case, "search")
            for pattern in _listed(patterns)
        )

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_core.testing import Example

        number: dict[str, Json] = {"pattern": r"[Aa]nswer: *(-?[0-9]+)\.?\s*\Z", "group": 1}
        only: dict[str, Json] = {"pattern": r"x = ([0-9]+)", "group": 1, "occurrence": "only"}
        letter = {"pattern": [r"\ADear \w+", r"[^?]\?\Z"], "must_not": "!"}
        date, whole = "[0-9]{4}-[0-9]{2}-[0-9]{2}", {"mode": "fullmatch"}
        return [
            Example("I count. Answer: 42.", 42, "correct", options=number),
            Example("answer: 2, no, answer: 42", "42", "correct", options=number),
            Example("answer: 43", 42, "wrong", options=number),
            Example("It is 42.", 42, "unparseable", options=number),
            Example("answer: 42 or 43", 42, "unparseable", options=number),
            Example("x = 4, then x = 4 again", 4, "correct", options=only),
            Example("x = 4 or x = 5", 4, "wrong", options=only),
            Example("2026-11-22", date, "correct", options=whole),
            Example("On 2026-11-22", date, "wrong", options=whole),
            Example("", date, "unparseable", options=whole),
            Example("aab", {"pattern": r"\A(a+)b\Z", "group": 1, "answer": "aa"}, "correct"),
            Example("aab", {"pattern": r"\Aa+b\Z", "must_not": "aa"}, "wrong"),
            Example("Dear Ann, how are you?", "", "correct", options=letter),
            Example("Dear Ann, hello! How are you?", "", "wrong", options=letter),
            Example("aaa", "(a+)+$", "error"),
            Example("aaa", ".*", "error"),
            Example("aaa", 7, "error"),
        ]


def _listed(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else patterns


def _patterns(value: Json) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise PatternError(f"patterns are texts, got {value!r:.80}")
    return tuple(values)


def _answer(reference: Json) -> str:
    """What a group must say; a number is compared as Python writes it."""
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise _unreadable(reference, "a group is compared with text or a number")
    try:
        return str(reference)
    except ValueError as error:  # Python writes no integer of more than 4,300 digits
        raise _unreadable("", str(error)) from error


def _unreadable(reference: Json, why: str) -> VerifierError:
    return VerifierError(
        f"the reference {reference!r:.200} cannot be read: {why}. Correct or drop this row of the "
        "data set."
    )
