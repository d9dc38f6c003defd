"""Multiple choice: which option does a completion choose?

`statements` finds where a completion states its choice, `reading` reads which one;
here the reference is read and the two are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.choice.reading import LETTERS, Options, clean, plain, read_choice
from grpo_verifiers.choice.statements import find_choice
from grpo_verifiers.parts import MISSING, Part, read_part

if TYPE_CHECKING:
    from grpo_core.testing import Example

_MAX_CHARS = 50_000  # of the end of a completion, where the choice is


@dataclass(frozen=True, slots=True)
class _Key:
    """A reference that has been read: the options, and the labels of the right one.

    Options with one text are the same option: whichever of them is right, all are.
    """

    options: Options
    right: frozenset[str]

    @property
    def text(self) -> str:
        """For people."""
        return " or ".join(sorted(self.right))


class ChoiceVerifier:
    """Correct if the completion chooses the right option, by its letter or by its text.

    The reference is a letter, or {"answer": letter, text, or index from 0, "options": [text, ...]
    or {letter: text}}. The last statement counts; one that names several options is wrong.
    """

    version = "1.0"

    class Config(BaseModel):
        """Options of the choice verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        part: Part = "after_reasoning"
        letters: int = Field(
            default=10,
            ge=2,
            le=26,
            description="how many letters are labels, from A on; more where a reference lists more "
            "options",
        )
        accept_text: bool = Field(
            default=True,
            description="the text of an option chooses it, too, where the reference lists them",
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order."""
        return [self._judge(sample) for sample in samples]

    def check_reference(self, reference: Json) -> None:
        """Read a reference as `verify` would.

        Raises:
            VerifierError: if it names no option, or its options cannot be read.
        """
        self._key(reference)

    def _judge(self, sample: Sample) -> Verdict:
        try:
            key = self._key(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        part = read_part(sample, self.config.part)
        if part is None:
            return Verdict.unparseable(MISSING[self.config.part], {"expected": key.text})
        stated = find_choice(part[-_MAX_CHARS:], key.options)
        chosen = ", ".join(sorted(stated))
        details = {"extracted": chosen, "expected": key.text}
        if not stated:
            return Verdict.unparseable("no choice was found", details)
        if stated <= key.right:
            return Verdict.correct("the right option is chosen", details)
        if len(stated) > 1:
            return Verdict.wrong(f"several options are chosen: {chosen}", details)
        return Verdict.wrong(f"{chosen} is chosen, {key.text} is right", details)

    def _key(self, reference: Json) -> _Key:
        texts: dict[str, str] = {}
        answer = reference
        if isinstance(reference, Mapping):
            if not {"answer"} <= set(reference) <= {"answer", "options"}:
                raise _unreadable(reference, "its keys must be 'answer' and, perhaps, 'options'")
            answer, texts = reference["answer"], read_options(reference)
        last = max([LETTERS[self.config.letters - 1], *texts])
        labels = LETTERS[: LETTERS.index(last) + 1]
        right = _right(answer, Options("".join(sorted(texts)) or labels, texts))
        if not right:
            raise _unreadable(reference, f"{answer!r:.80} names no option")
        return _Key(Options(labels, texts if self.config.accept_text else {}), right)

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_verifiers.choice.examples import EXAMPLES

        return EXAMPLES


def read_options(reference: Mapping[str, Json]) -> dict[str, str]:
    """The texts of a reference's options by letter, as `plain` writes them.

    Raises:
        VerifierError: if they are no list of 2 to 26 texts, nor an object of them by letter.
    """
    options = reference.get("options")
    if options is None:
        return {}
    rows = list(zip(LETTERS, options, strict=False)) if isinstance(options, list) else []
    if isinstance(options, Mapping):
        rows = sorted(options.items())
    if not 2 <= len(rows) == len(options):
        raise _unreadable(reference, "'options' must hold 2 to 26 options")
    for label, text in rows:
        if not (label and label in LETTERS):
            raise _unreadable(reference, f"{label!r:.20} is no letter from A to Z")
        if not isinstance(text, str | int | float) or isinstance(text, bool):
            raise _unreadable(reference, f"option {label} is {text!r:.80}, which is no text")
    return {label: plain(str(text)) for label, text in rows}


def _right(answer: Json, options: Options) -> frozenset[str]:
    """The labels of the right option; none if `answer` names none, or several."""
    found: frozenset[str] = frozenset()
    if isinstance(answer, bool):
        return found
    if isinstance(answer, int) and 0 <= answer < len(options.texts):
        found = frozenset(sorted(options.texts)[answer])
    elif isinstance(answer, str):
        same = {label for label, text in options.texts.items() if text == plain(answer)}
        reading = read_choice(clean(answer).strip(), Options(options.labels, {}))
        letter = clean(answer).strip(" ().:[]{}").upper()
        found = frozenset(letter if reading and len(letter) == 1 else "") or frozenset(same)
        found &= frozenset(options.labels)
    texts = {options.texts[label] for label in found & set(options.texts)}
    return found | {label for label, text in options.texts.items() if text in texts}


def _unreadable(reference: Json, why: str) -> VerifierError:
    return VerifierError(
        f"the reference {reference!r:.200} cannot be read: {why}. It must be a letter, or "
        '{"answer": "B", "options": ["..", ".."]}. Correct or drop this row of the data set.'
    )
