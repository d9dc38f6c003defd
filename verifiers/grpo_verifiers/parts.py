r"""Which part of a completion a verifier reads: the reasoning apart, a tag, a box, the last line.

One place and one content are taken, so that listing many answers gains nothing. An answer that was
cut off (`<answer>7`, `\boxed{7`) is none: it may be the beginning of 72.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from grpo_core.types import Sample
from grpo_verifiers.reasoning import after_reasoning

PartName = Literal["whole", "after_reasoning", "answer_tag", "boxed", "last_line"]
Part = Annotated[
    PartName,
    Field(
        description="what is read. whole: all of the completion; after_reasoning: what follows the "
        "last </think>; and of that answer_tag: the last <answer>..</answer>; boxed: the last "
        "\\boxed{..}; last_line: the last line that is not empty"
    ),
]

MISSING = {
    "whole": "the completion is empty",
    "after_reasoning": "nothing follows the reasoning",
    "answer_tag": "there is no complete <answer>..</answer>",
    "boxed": "there is no complete \\boxed{..}",
    "last_line": "there is no line of text",
}
_SHOWN_CHARS = 200  # of a text in a verdict's reason and details
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def read_part(sample: Sample, part: PartName) -> str | None:
    """The asked part of a completion, white space at its ends removed; None if it has none."""
    if part == "whole":
        return sample.completion.strip() or None
    opened = sample.prompt.rstrip().endswith("<think>")
    text = after_reasoning(sample.completion, opened=opened)
    found: str | None = text
    if part == "answer_tag":
        found = last_tag(text)
    elif part == "boxed":
        found = last_box(text)
    elif part == "last_line":
        found = text.strip().rpartition("\n")[2]
    return (found or "").strip() or None


def last_tag(text: str) -> str | None:
    """The content of the last `<answer>..</answer>`; None if the last one is not complete."""
    _, tag, rest = text.rpartition("<answer>")
    content, end, _ = rest.partition("</answer>")
    return content if tag and end else None


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{..}` or `\fbox{..}`; None if the last one is not closed."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    end = closing_brace(text, boxes[-1].end())
    return None if end is None else text[boxes[-1].end() : end]


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened right before `start`; None if it never does."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def shown(text: str) -> str:
    """A text for people, clipped."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 1]}…"
