"""The `math` verifier: is the final answer of a completion equal to the reference?

Text to verdict: `extraction` finds the one answer, `normalise` gives it one spelling, `exact`
decides numbers with fractions, `structure` and `equality` take the rest apart, and only what is
left is parsed by `parser` and evaluated by `expressions`, which loads mpmath. Nothing is ever
executed, and no text costs more than a fixed amount of work: see `limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.math.config import MathConfig
from grpo_verifiers.math.currency import contradict
from grpo_verifiers.math.equality import Comparison
from grpo_verifiers.math.exact import read_quantity
from grpo_verifiers.math.extraction import Extraction, extract_answer, extract_choice
from grpo_verifiers.math.forms import has_form
from grpo_verifiers.math.leaves import decimal_comma, expressions, symbolic
from grpo_verifiers.math.limits import AnswerError, AnswerTooLarge
from grpo_verifiers.math.nodes import Group
from grpo_verifiers.math.normalise import canonical
from grpo_verifiers.math.question import repeats_question
from grpo_verifiers.math.reference import Reference, read_reference, shown, unreadable
from grpo_verifiers.math.structure import read_structure
from grpo_verifiers.math.words import behind_choice, choice

if TYPE_CHECKING:
    from grpo_core.testing import Example


class MathVerifier:
    """Compares the final answer of a completion with a reference answer.

    The reference is a number, an answer in LaTeX or plain text, or a worked solution that ends in
    `#### 18`, holds its answer in a box, or states it.
    """

    version = "2.0"
    candidate_bears_limits = True
    batch_size = 16  # each takes well under a millisecond, less than a round trip
    deadline = 2.0  # seconds; the limits keep every verdict far below
    Config = MathConfig

    def __init__(self, config: MathConfig | None = None) -> None:
        self.config = config or MathConfig()

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdicts are known, for the conformance suite."""
        from grpo_verifiers.math.examples import EXAMPLES  # a table that only tests need

        return EXAMPLES

    def preload(self) -> None:
        """Import the libraries that evaluate and prove, once, before workers are forked."""
        expressions()
        symbolic()

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would, and evaluate it.

        Raises:
            VerifierError: if no answer can be read in it.
        """
        parsed = read_reference(reference)
        try:
            Comparison(self.config).check_readable(parsed.node)
        except AnswerError as error:
            raise VerifierError(unreadable(reference, str(error))) from error

    def _judge(self, sample: Sample) -> Verdict:
        try:
            gold = read_reference(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        found = self._extract(sample, gold)
        if found is None:
            kind = "boxed answer" if self.config.require_boxed else "answer"
            return Verdict.unparseable(f"no {kind} was found", {"expected": shown(gold.text)})
        try:
            return self._compare(gold, found, sample.prompt)
        except AnswerError as failure:
            return self._refused(sample.reference, found, failure)

    def _extract(self, sample: Sample, gold: Reference) -> Extraction | None:
        text, prompt = sample.completion, sample.prompt
        boxed = self.config.require_boxed
        found = extract_answer(text, prompt=prompt, require_boxed=boxed)
        if not gold.is_choice or boxed or "boxed" in text:
            return found
        named = found is not None and choice(found.text) is not None
        return found if named else extract_choice(text, prompt=prompt) or found

    def _compare(self, gold: Reference, found: Extraction, prompt: str) -> Verdict:
        if gold.quantity and repeats_question(found.text, prompt):
            details = {"extracted": shown(found.text), "method": found.method}
            return Verdict.wrong("the answer repeats the question", details)
        comparison = Comparison(self.config)
        equal = self._equal(gold, found.text, comparison)
        if not equal and isinstance(gold.node, Group) and len(found.boxes) == len(gold.node.items):
            # One box for each of several answers: all have to be right, so listing gains nothing.
            equal = self._equal(gold, " , ".join(found.boxes), comparison)
        details = {
            "extracted": shown(found.text),
            "method": found.method,
            "expected": shown(gold.text),
            "stage": comparison.leaves.stage,
        }
        if equal and not has_form(found.text, gold.text, self.config.form):
            return Verdict.wrong(
                f"the value is right, but the form is not {self.config.form}", details
            )
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
        details = {"extracted": shown(found.text), "method": found.method, "stage": "refused"}
        if isinstance(failure, AnswerTooLarge):
            return Verdict.wrong(f"the answer is refused: {failure}", details)
        return Verdict.unparseable(f"the answer cannot be read: {failure}", details)

    def _equal(self, gold: Reference, answer: str, comparison: Comparison) -> bool:
        if answer == gold.written:
            return True
        if contradict(gold.written, answer):
            return False
        if gold.is_choice and (letter := choice(answer)):
            return letter == gold.text
        text = canonical(answer)
        if not text:
            raise AnswerError("it is empty")
        if text == gold.text:
            return True
        quantity = read_quantity(text) if gold.quantity else None
        if gold.quantity and quantity:
            return comparison.leaves.same_number(gold.quantity, quantity)
        if comparison.equal(gold.node, read_structure(text)):
            return True
        if gold.quantity and (quantity := decimal_comma(text)) and quantity.value.denominator > 1:
            return comparison.leaves.same_number(gold.quantity, quantity)
        if gold.comma_value and (quantity := read_quantity(text)) and quantity.places:
            return comparison.leaves.same_number(gold.comma_value, quantity)
        rest = "" if gold.is_choice else behind_choice(answer)
        return bool(rest) and self._equal(gold, rest, comparison)
