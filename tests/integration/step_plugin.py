"""A file plugin with a verifier that scores steps."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

from grpo_core import Sample, Verdict, hookimpl
from grpo_core.types import Status, StepScore


class LetterSteps:
    """Two characters are a step, and a step is good when both are ASCII letters."""

    version = "1"

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample.completion) for sample in samples]

    def _judge(self, text: str) -> Verdict:
        if not text:
            return Verdict.unparseable("it says nothing")
        parts = [text[at : at + 2] for at in range(0, len(text), 2)]
        ends = [min(2 * number, len(text)) for number in range(1, len(parts) + 1)]
        scores = [sum(letter in ascii_letters for letter in part) / len(part) for part in parts]
        steps = [StepScore(end, score) for end, score in zip(ends, scores, strict=True)]
        status = Status.CORRECT if sum(scores) > len(scores) / 2 else Status.WRONG
        return Verdict(status, sum(scores) / len(scores), steps=steps)


@hookimpl
def grpo_register_verifiers(register):
    register("letter_steps", LetterSteps)
