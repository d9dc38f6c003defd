"""Exact match: the completion, or a part of it, is the reference."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.parts import MISSING, Part, read_part, shown

if TYPE_CHECKING:
    from grpo_core.testing import Example


class ExactVerifier:
    """Correct if the completion equals the reference, white space at both ends apart.

    The reference is text, or a number, which is compared as Python writes it, or a list of such,
    any of which is right.
    """

    version = "1.1"

    class Config(BaseModel):
        """Options of the exact verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        part: Part = "whole"
        ignore_case: bool = Field(default=False, description="A equals a")
        collapse_whitespace: bool = Field(
            default=False,
            description="any run of white space equals one space, also within the text",
        )
        normalise_unicode: bool = Field(
            default=False,
            description="compare in Unicode form NFKC: full-width digits, ligatures and composed "
            "letters equal the plain ones",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would.

        Raises:
            VerifierError: if there is nothing to compare with.
        """
        self._wanted(reference)

    def _judge(self, sample: Sample) -> Verdict:
        try:
            wanted = self._wanted(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        part = read_part(sample, self.config.part)
        if part is None:
            return Verdict.unparseable(MISSING[self.config.part])
        found = self._normal(part)
        details = {"extracted": shown(found), "expected": shown(wanted[0])}
        if found in wanted:
            return Verdict.correct("the texts are equal", details)
        return Verdict.wrong(f"expected {wanted[0][:80]!r}, got {found[:80]!r}", details)

    def _wanted(self, reference: Json) -> list[str]:
        answers = reference if isinstance(reference, list) else [reference]
        if not answers:
            raise VerifierError("the reference is an empty list. Correct or drop this row.")
        return [self._answer(answer) for answer in answers]

    def _answer(self, answer: Json) -> str:
        is_finite = math.isfinite(answer) if isinstance(answer, float) else True
        if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not is_finite:
            raise VerifierError(
                f"the reference must be text or a number, or a list of them, got {answer!r:.80}. "
                "Correct or drop this row."
            )
        try:
            text = self._normal(str(answer))
        except ValueError as error:  # Python writes no integer of more than 4,300 digits
            raise VerifierError(f"the reference cannot be written: {error}") from error
        if not text:
            raise VerifierError("the reference is empty: every completion that says nothing fits.")
        return text

    def _normal(self, text: str) -> str:
        if self.config.normalise_unicode:
            text = unicodedata.normalize("NFKC", text)
        text = " ".join(text.split()) if self.config.collapse_whitespace else text.strip()
        return text.casefold() if self.config.ignore_case else text

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_core.testing import Example

        lenient = {"ignore_case": True, "collapse_whitespace": True, "normalise_unicode": True}
        tagged = {"part": "answer_tag"}
        return [
            Example("yes", "yes", "correct"),
            Example(" yes\n", "yes", "correct"),
            Example("42", 42, "correct"),
            Example("Paris", ["Paris", "Paris, France"], "correct"),
            Example("Yes", "yes", "wrong"),
            Example("yes or no", "yes", "wrong"),
            Example("42.0", 42, "wrong"),
            Example(" \n", "yes", "unparseable"),
            Example("STRASSE\n ４", "straße 4", "correct", options=lenient),
            Example("<answer>yes</answer>", "yes", "correct", options=tagged),
            Example("<answer>yes", "yes", "unparseable", options=tagged),
            Example("", True, "error"),
            Example("", "", "error"),
        ]
