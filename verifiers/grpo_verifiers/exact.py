"""Exact match: the whole completion is the reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grpo_core import Sample, Verdict, verifier
from grpo_core.errors import VerifierError

IgnoreCase = Annotated[bool, Field(description="A equals a")]
CollapseWhitespace = Annotated[
    bool, Field(description="any run of white space equals one space, also within the text")
]


@verifier(version="1.0")
def exact(
    sample: Sample,
    *,
    ignore_case: IgnoreCase = False,
    collapse_whitespace: CollapseWhitespace = False,
) -> Verdict:
    """Correct if completion and reference are equal, white space at both ends apart.

    The reference is text, or a number, which is compared as Python writes it.
    """
    reference = sample.reference
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise VerifierError(f"the reference must be text or a number, got {reference!r:.80}")

    def normal(text: str) -> str:
        text = " ".join(text.split()) if collapse_whitespace else text.strip()
        return text.casefold() if ignore_case else text

    found, wanted = normal(sample.completion), normal(str(reference))
    if found == wanted:
        return Verdict.correct()
    return Verdict.wrong(f"expected {wanted[:80]!r}, got {found[:80]!r}")
