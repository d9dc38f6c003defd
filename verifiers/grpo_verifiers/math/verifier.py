"""The `math` verifier: is the final answer of a completion equal to the reference?

Text to verdict: `extraction` finds the one answer, `normalise` gives it one spelling, `exact`
decides numbers with fractions, `structure` and `equality` take the rest apart, and only what is
left is parsed and evaluated by `parsing` and `symbolic`, the two modules that load sympy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.math.equality import Comparison
from grpo_verifiers.math.exact import Quantity, read_quantity
from grpo_verifiers.math.extraction import Extraction, extract_answer, last_box
from grpo_verifiers.math.limits import AnswerError, AnswerTooLarge
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.structure import Leaf, Node, read_structure

# "(B) 12", "B. 12", "\\text{(B)}\\ 12"; but not "(A) or (B)".
_CHOICE = re.compile(r"\s*(?:\\text(?:bf|rm)?\{)?\s*\(?([A-J])\s*[).:]")
_CHOICE_MORE = re.compile(r"\)[^)]*\(?[A-J]\)|\b(?:or|and)\b|,")
_SHOWN_CHARS = 200  # of an answer in a verdict's reason and details


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that has been read."""

    text: str
    quantity: Quantity | None
    node: Node

    @property
    def is_choice(self) -> bool:
        """Whether it is the letter of a multiple-choice option."""
        return len(self.text) == 1 and "A" <= self.text <= "J"


class MathVerifier:
    """Compares the final answer of a completion with a reference answer.

    The reference is a number, an answer in LaTeX or plain text, or a worked solution that ends in
    `#### 18` or holds its answer in a box.
    """

    version = "1.0"
    candidate_bears_limits = True

    class Config(BaseModel):
        """Options of the math verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        require_boxed: bool = Field(
            default=False, description="Accept an answer only inside \\boxed{} or \\fbox{}."
        )
        percent: Literal["either", "value", "unit"] = Field(
            default="either",
            description="What a percent sign on one side only means. value: 50% is 0.5; "
            "unit: 50% is 50; either: 50% equals both.",
        )
        tolerance: float = Field(
            default=0.0,
            ge=0.0,
            le=0.1,
            description="Largest difference between numbers that still counts as equal, relative "
            "to the reference. 0 compares exactly: 0.3333 is not 1/3.",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self._tolerance = Fraction(str(self.config.tolerance))

    def preload(self) -> None:
        """Import sympy and the LaTeX parser, once, before workers are forked."""
        from grpo_verifiers.math import symbolic  # loads sympy, which importing us must not

        symbolic.warm_up()

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would, and evaluate it.

        Raises:
            VerifierError: if no answer can be read in it.
        """
        parsed = self._reference(reference)
        try:
            self._comparison().check_readable(parsed.node)
        except AnswerError as error:
            raise VerifierError(_unreadable(reference, str(error))) from error

    def _judge(self, sample: Sample) -> Verdict:
        try:
            gold = self._reference(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        found = extract_answer(
            sample.completion, prompt=sample.prompt, require_boxed=self.config.require_boxed
        )
        if found is None:
            return Verdict.unparseable(_no_answer(self.config), {"expected": _shown(gold.text)})
        try:
            return self._compare(gold, found)
        except AnswerError as failure:
            return self._refused(sample.reference, found, failure)

    def _compare(self, gold: Reference, found: Extraction) -> Verdict:
        comparison = self._comparison()
        equal = self._equal(gold, found.text, comparison)
        details = {
            "extracted": _shown(found.text),
            "method": found.method,
            "expected": _shown(gold.text),
            "stage": "symbolic" if comparison.symbolic else "exact",
        }
        if equal:
            return Verdict.correct("the answer equals the reference", details)
        reason = comparison.reason or f"{details['extracted']} is not {details['expected']}"
        return Verdict.wrong(reason, details)

    def _refused(self, reference: Json, found: Extraction, failure: AnswerError) -> Verdict:
        """The verdict on an answer that was not compared: whose fault is it?"""
        try:
            self.check_reference(reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        details = {"extracted": _shown(found.text), "method": found.method, "stage": "symbolic"}
        if isinstance(failure, AnswerTooLarge):
            return Verdict.wrong(f"the answer is refused: {failure}", details)
        return Verdict.unparseable(f"the answer cannot be read: {failure}", details)

    def _equal(self, gold: Reference, text: str, comparison: Comparison) -> bool:
        if gold.is_choice and (choice := _CHOICE.match(text)) and not _CHOICE_MORE.search(text):
            text = choice.group(1)
        text = canonical(text)
        if not text:
            raise AnswerError("it is empty")
        if text == gold.text:
            return True
        quantity = read_quantity(text) if gold.quantity else None
        if gold.quantity and quantity:
            return comparison.same_number(gold.quantity, quantity)
        return comparison.equal(gold.node, read_structure(text))

    def _comparison(self) -> Comparison:
        return Comparison(self.config.percent, self._tolerance)

    def _reference(self, reference: Json) -> Reference:
        """Read a reference, a group's completions sharing the work."""
        if isinstance(reference, bool) or not isinstance(reference, str | int | float):
            raise VerifierError(_unreadable(reference, "a reference is a string or a number"))
        if isinstance(reference, float) and not math.isfinite(reference):
            raise VerifierError(_unreadable(reference, "a reference must be finite"))
        try:
            return read_reference(str(reference))
        except ValueError as error:  # Python writes no integer of more than 4,300 digits
            raise VerifierError(_unreadable("", str(error))) from error


@lru_cache(maxsize=4096)
def read_reference(reference: str) -> Reference:
    """The answer that a reference states.

    Raises:
        VerifierError: if it states none, or one past the limits.
    """
    text = reference.rpartition("####")[2]
    if "boxed" in text:
        text = last_box(text)[0] or text
    try:
        text = canonical(text)
        if not text:
            raise AnswerError("it is empty")
        quantity = read_quantity(text)
        return Reference(text, quantity, Leaf(text) if quantity else read_structure(text))
    except AnswerError as error:
        raise VerifierError(_unreadable(reference, str(error))) from error


def _unreadable(reference: Any, why: str) -> str:
    return (
        f"the reference {_shown(repr(reference))} cannot be read: {why}. "
        "Correct or drop this row of the data set."
    )


def _no_answer(config: MathVerifier.Config) -> str:
    return "no boxed answer was found" if config.require_boxed else "no answer was found"


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
