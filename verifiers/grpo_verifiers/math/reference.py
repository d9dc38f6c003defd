"""References: what the row of a data set says the answer is."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from grpo_core.errors import VerifierError
from grpo_core.types import Json
from grpo_verifiers.math.boxes import find_boxes
from grpo_verifiers.math.exact import Quantity, read_quantity
from grpo_verifiers.math.extraction import extract_answer
from grpo_verifiers.math.leaves import decimal_comma
from grpo_verifiers.math.limits import MAX_COMPLETION_CHARS, AnswerError
from grpo_verifiers.math.nodes import Leaf, Node
from grpo_verifiers.math.normalise import canonical, unescaped
from grpo_verifiers.math.prose import has_prose
from grpo_verifiers.math.structure import read_structure

_SHOWN_CHARS = 200  # of an answer in a verdict's reason and details
_MAX_CACHED_CHARS = 4_000
_MAX_WORDED_CHARS = 300  # a longer one with words is a worked solution, which must mark its answer
# A line that the next one carries on, or that carries on the one before.
_CARRIED_ON = re.compile(r"[-+*/=<>(\[{&\\]\n|\n[+*/=<>)\]}&\\]|\\begin|\$\$\n|\n\$\$")


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference that has been read.

    Attributes:
        written: the answer as it stands there.
        text: the answer in canonical spelling.
        quantity: the number it is; None if it is anything else.
        node: its structure.
        comma_value: the number it is where a comma stands for the decimal point.
    """

    written: str
    text: str
    quantity: Quantity | None
    node: Node
    comma_value: Quantity | None

    @property
    def is_choice(self) -> bool:
        """Whether it is the letter of a multiple-choice option."""
        return len(self.text) == 1 and "A" <= self.text <= "J"


def read_reference(reference: Json) -> Reference:
    """The answer that a reference states; a group's completions share the work.

    Raises:
        VerifierError: if it states none, or one past the limits.
    """
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise VerifierError(unreadable(reference, "a reference is a string or a number"))
    if isinstance(reference, float) and not math.isfinite(reference):
        raise VerifierError(unreadable(reference, "a reference must be finite"))
    try:
        text = str(reference)
    except ValueError as error:  # Python writes no integer of more than 4,300 digits
        raise VerifierError(unreadable("", str(error))) from error
    try:
        return _read(text) if len(text) <= _MAX_CACHED_CHARS else _read.__wrapped__(text)
    except AnswerError as error:
        raise VerifierError(unreadable(reference, str(error))) from error


@lru_cache(maxsize=1024)
def _read(reference: str) -> Reference:
    written = _stated(unescaped(reference[-MAX_COMPLETION_CHARS:])).strip()
    text = canonical(written)
    if not text:
        raise AnswerError("it is empty")
    quantity = read_quantity(text)
    node = Leaf(text) if quantity else read_structure(text)
    return Reference(written, text, quantity, node, decimal_comma(text))


def _stated(reference: str) -> str:
    """The part of a reference that is its answer."""
    text = reference.rpartition("####")[2]
    if "boxed" in text:
        boxes = find_boxes(text)
        return boxes.last or text.rpartition("boxed{")[2]
    if "answer" in text.lower():
        found = extract_answer(text)
        return found.text if found else text
    text = _several_lines(text.strip())
    if len(text) > _MAX_WORDED_CHARS and has_prose(text):
        raise AnswerError(
            "a text this long is a worked solution, and nothing in it says which part is the "
            "answer; end it with #### or put the answer in a box"
        )
    return text


def _several_lines(text: str) -> str:
    """Lines that each hold an answer, as one list: "x = 3" above "y = 7" are two answers.

    Raises:
        AnswerError: if the lines are neither answers nor one expression.
    """
    lines = [line.strip(" \t\r,;.") for line in text.splitlines() if line.strip(" \t\r,;.")]
    if len(lines) < 2 or _CARRIED_ON.search("\n".join(lines)) or not any(map(str.isdigit, text)):
        return text
    if any(has_prose(line) for line in lines):
        raise AnswerError("it has several lines, and nothing says which one is the answer")
    return " , ".join(lines)


def unreadable(reference: Any, why: str) -> str:
    """The message about a reference that cannot be read."""
    return (
        f"the reference {shown(repr(reference))} cannot be read: {why}. "
        "Correct or drop this row of the data set."
    )


def shown(text: str) -> str:
    """A text cut to a length that fits a message."""
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
