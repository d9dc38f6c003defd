"""Where the steps of a completion end, and what becomes of their scores.

Steps tile the text: each begins where the one before ends, and what separates two of them belongs
to the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Literal

Aggregation = Literal["min", "mean", "product", "last"]

# "Step 2", "### Step 2:", "**Step 2**", "2.", "2)" at the beginning of a line.
_NUMBER = re.compile(
    r"^[ \t]*(?:[#*]+[ \t]*)?(?:step[ \t]*\d{1,4}\b|\d{1,4}[.)](?=\s))",
    re.IGNORECASE | re.MULTILINE,
)


def step_ends(
    text: str, how: Literal["separator", "numbered"], separator: str, most: int
) -> list[int]:
    """Offsets at which the steps of a text end; the last one is its length.

    A part that holds nothing but white space and separators is no step and belongs to the one
    before it, or to the first.

    Args:
        text: of a completion, not blank.
        how: "separator": a step ends with each `separator`; "numbered": a step begins with each
            number at the beginning of a line.
        separator: not empty.
        most: with more steps, the last one holds all the rest.
    """
    mark = separator.strip() if how == "separator" else ""
    cuts = _after(text, separator) if how == "separator" else _numbers(text)
    ends: list[int] = []
    start = 0
    for cut in [*cuts, len(text)]:
        if _has_words(text[start:cut], mark):
            ends.append(cut)
        elif ends:
            ends[-1] = cut
        start = cut
    return [*ends[: most - 1], len(text)] if len(ends) > most else ends or [len(text)]


def _has_words(part: str, mark: str) -> bool:
    return bool((part.replace(mark, "") if mark else part).strip())


def words_end(step: str, separator: str) -> int:
    """Where a step's own words end: before white space and separators that follow them."""
    mark = separator.strip()
    start, end = len(step) - len(step.lstrip()), len(step.rstrip())
    while mark and end - len(mark) > start and step.endswith(mark, start, end):
        end -= len(mark)
        while step[end - 1].isspace():
            end -= 1
    return end


def _after(text: str, separator: str) -> Iterator[int]:
    at = text.find(separator)
    while at >= 0:
        at += len(separator)
        yield at
        at = text.find(separator, at)


def _numbers(text: str) -> Iterator[int]:
    return (found.start() for found in _NUMBER.finditer(text) if found.start() > 0)


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """One score for a completion.

    min: a chain is as strong as its weakest step. product: the probability that all steps are
    right, were they independent; it falls with their number. last: that of the whole, for models
    trained to say how well a beginning will end. Sources: Lightman et al. 2023, arXiv 2305.20050;
    Wang et al. 2024, arXiv 2312.08935.

    Args:
        scores: in [0, 1], at least one.
        how: one of the above, or "mean".
    """
    if how == "min":
        return min(scores)
    if how == "product":
        return math.prod(scores)
    return scores[-1] if how == "last" else math.fsum(scores) / len(scores)
