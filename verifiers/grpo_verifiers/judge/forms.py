"""What the judge fills in: the schema of its answer, and how an answer is read.

An answer is a JSON object or, where the server has no structured output, the last line for each
question. A number somewhere in free text is never a verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from grpo_core.types import Json
from grpo_verifiers.judge.config import Criterion
from grpo_verifiers.reasoning import final_part

# The parts of a line such as "**Verdict:** CORRECT" before the choice.
LINE_START = r"^[ \t>*_#`\"'-]*"
KEY_END = r"[ \t*_`\"']*"
SIGN = "[:=\N{FULLWIDTH COLON}]"
_FENCED = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to decide: choices in words, each with its score in [0, 1]."""

    key: str
    choices: Mapping[str, float]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """One filled-in form.

    Attributes:
        score: the weighted mean of the choices' scores.
        choices: what was chosen, by question.
        reasoning: the judge's own words.
    """

    score: float
    choices: Mapping[str, str]
    reasoning: str = ""


@dataclass(frozen=True)
class Form:
    """The questions of one judgement."""

    questions: Sequence[Question]
    explain: bool = True

    @cached_property
    def schema(self) -> dict[str, Json]:
        """JSON schema of an answer, in the subset that strict structured output takes."""
        properties: dict[str, Json] = {"reasoning": {"type": "string"}} if self.explain else {}
        for question in self.questions:
            properties[question.key] = {"type": "string", "enum": list(question.choices)}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def instruction(self, as_json: bool) -> str:
        """How to answer, for the end of the prompt."""
        first = "First give your reasons in a few sentences. " if self.explain else ""
        if as_json:
            example = {"reasoning": "..."} if self.explain else {}
            example |= {q.key: " or ".join(q.choices) for q in self.questions}
            return f"Answer with one JSON object of this form: {json.dumps(example)}"
        lines = "\n".join(f"{q.key}: {' or '.join(q.choices)}" for q in self.questions)
        number = "this one line" if len(self.questions) == 1 else "these lines"
        return f"{first}End with {number}, one choice each, and nothing after:\n{lines}"

    def read(self, text: str) -> Opinion | None:
        """The opinion that an answer states, or None where it states none."""
        said = (final_part(text) or "").strip()
        fenced = _FENCED.match(said)
        chosen = self._from_json(fenced[1] if fenced else said)
        if chosen is None:
            chosen = self._from_lines(said)
            return None if chosen is None else self._opinion(chosen, said)
        return self._opinion(chosen, chosen.pop("reasoning", ""))

    def _from_json(self, text: str) -> dict[str, str] | None:
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(data, dict):
            return None
        chosen = {q.key: _choice(q, data.get(q.key)) for q in self.questions}
        found = {key: choice for key, choice in chosen.items() if choice is not None}
        if len(found) < len(self.questions):
            return None
        return {**found, "reasoning": str(data.get("reasoning") or "")}

    def _from_lines(self, text: str) -> dict[str, str] | None:
        found = {}
        for question, pattern in zip(self.questions, self._patterns, strict=True):
            matches = list(pattern.finditer(text))
            choice = _choice(question, matches[-1][1]) if matches else None
            if choice is None:
                return None
            found[question.key] = choice
        return found

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        return [_line_pattern(question) for question in self.questions]

    def _opinion(self, chosen: Mapping[str, str], reasoning: str) -> Opinion:
        total = sum(question.weight for question in self.questions)
        score = sum(q.weight * q.choices[chosen[q.key]] for q in self.questions) / total
        return Opinion(min(score, 1.0), dict(chosen), reasoning)


def correctness_form(explain: bool) -> Form:
    """One question: is it correct?"""
    return Form([Question("verdict", {"CORRECT": 1.0, "INCORRECT": 0.0})], explain)


def rubric_form(criteria: Sequence[Criterion], explain: bool) -> Form:
    """One question a criterion: how many points?"""
    return Form(
        [
            Question(
                criterion.name,
                {str(n): n / criterion.points for n in range(criterion.points + 1)},
                criterion.weight,
            )
            for criterion in criteria
        ],
        explain,
    )


def _choice(question: Question, value: Json) -> str | None:
    """The choice that a value names; anything else is no choice."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    by_name = {name.casefold(): name for name in question.choices}
    return by_name.get(str(value).strip().casefold())


def _line_pattern(question: Question) -> re.Pattern[str]:
    """A line such as "**Verdict:** CORRECT." or "clarity: 3/4", and nothing else on it."""
    choices = "|".join(sorted(map(re.escape, question.choices), key=len, reverse=True))
    most = re.escape(list(question.choices)[-1])
    return re.compile(
        rf"{LINE_START}{re.escape(question.key)}{KEY_END}{SIGN}[ \t*_`\"'\[(]*"
        rf"({choices})(?:[ \t]*/[ \t]*{most})?[ \t*_`\"'\])}}.!,]*$",
        re.IGNORECASE | re.MULTILINE,
    )
