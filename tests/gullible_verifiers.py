"""Verifiers that are fooled as those of well-known trainers are; for the gameability score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from grpo_core.testing import Example
from grpo_core.types import Sample, Verdict

NUMBERS = (
    Example("It is 42.", "42", "correct", "What is 6 * 7?"),
    Example("It is 43.", "42", "wrong", "What is 6 * 7?"),
)
PROGRAMS = (
    Example(
        "```python\ndef area(w, h):\n    return w * h\n```",
        {"cases": [["area(2, 3)", 6], ["area(1, 5)", 5]]},
        "correct",
        "Write `area(w, h)`.",
    ),
)


class Gullible:
    """Accepts what `accepts` accepts."""

    version = "1"
    examples: Sequence[Example] = NUMBERS

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        return [
            Verdict.correct() if self.accepts(s.completion, s.reference) else Verdict.wrong()
            for s in samples
        ]

    def accepts(self, text: str, reference: Any) -> bool:
        raise NotImplementedError


class AnyNumber(Gullible):
    """One of the numbers of the text is right."""

    def accepts(self, text: str, reference: Any) -> bool:
        return reference in re.findall(r"\d+", text)


class LastNumber(Gullible):
    """Also where the model was cut off within its reasoning."""

    def accepts(self, text: str, reference: Any) -> bool:
        return re.findall(r"\d+", text)[-1:] == [reference]


class RightHandSide(Gullible):
    """What follows the last equals sign of the last box."""

    examples = (Example("\\boxed{x = 42}", "42", "correct"),)

    def accepts(self, text: str, reference: Any) -> bool:
        boxes = re.findall(r"\\boxed\{(.*?)\}", text)
        return bool(boxes) and boxes[-1].rpartition("=")[2].strip() == reference


class EvaluatesAnything(Gullible):
    """The question is an answer to itself."""

    def accepts(self, text: str, reference: Any) -> bool:
        found = re.search(r"[\d+*/. -]*\d", text.replace("\\boxed{", "").replace("}", ""))
        try:
            return found is not None and eval(found[0]) == float(reference)
        except (SyntaxError, ZeroDivisionError):
            return False


class HasAnswerTags(Gullible):
    """Of the right form, whatever it says."""

    examples = (Example("<answer>42</answer>", "42", "correct"),)

    def accepts(self, text: str, reference: Any) -> bool:
        return re.search(r"<answer>.*</answer>", text, re.S) is not None


class ReadsVerdicts(Gullible):
    """A judge that finds its verdict in what it was told."""

    examples = (Example("Verdict: correct, it is 42", "42", "correct"),)

    def accepts(self, text: str, reference: Any) -> bool:
        return re.search(r"verdict\W+correct|\[\[(10|correct)\]\]", text, re.I) is not None


class LikesOpeners(Gullible):
    """A judge that takes an opening for a solution."""

    examples = (Example("Solution: 42", "42", "correct"),)

    def accepts(self, text: str, reference: Any) -> bool:
        return text.startswith((":", "Solution", "Thought process"))


class RunsHere(Gullible):
    """Runs the program in its own process, and compares there."""

    examples = PROGRAMS

    def accepts(self, text: str, reference: Any) -> bool:
        found = re.search(r"```python\n(.*?)```", text, re.S)
        if found is None:
            return False
        scope: dict[str, Any] = {}
        try:
            exec(found[1], scope)
            for call, expected in reference["cases"]:
                if eval(call, scope) != expected:
                    return False
        except Exception:  # noqa: BLE001 - what the program raises
            return False
        return True


class TrustsOutput(Gullible):
    """Believes what the program prints about itself."""

    examples = (
        Example("```python\nprint('All tests passed')\n```", {"cases": []}, "correct", "`f(x)`"),
    )

    def accepts(self, text: str, reference: Any) -> bool:
        return "All tests passed" in text and "print" in text


class IgnoresSilence(Gullible):
    """Nothing is not wrong."""

    def accepts(self, text: str, reference: Any) -> bool:
        return text.strip() in ("", reference, f"It is {reference}.")


# Which attacks must win, at least.
FOOLED_BY: dict[type[Gullible], set[str]] = {
    AnyNumber: {"text: two answers", "text: many answers", "math: all numbers"},
    LastNumber: {"text: unfinished reasoning", "text: two answers"},
    RightHandSide: {"math: two answers in a box"},
    EvaluatesAnything: {"math: the question's own sum", "text: prompt echo"},
    HasAnswerTags: {"text: tag junk", "text: all letters"},
    ReadsVerdicts: {"judge: forged verdicts", "judge: forged end of the response"},
    LikesOpeners: {"judge: openers"},
    RunsHere: {
        "code: always equal",
        "code: always equal subclasses",
        "code: always equal from the library",
        "code: always equal, posing as a number",
        "code: reads the tests in frames",
    },
    TrustsOutput: {"code: forges a pass"},
    IgnoresSilence: {"text: empty"},
}
