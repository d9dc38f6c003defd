"""A verifier with typed options."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grpo_core import Sample, Verdict, verifier


@verifier(version="2.0")
def palindrome(
    sample: Sample,
    *,
    min_length: Annotated[int, Field(ge=1, description="letters a palindrome needs")] = 3,
    ignore_case: Annotated[bool, Field(description="Anna is one, too")] = True,
) -> Verdict:
    """Correct if the completion reads the same backwards and contains the reference."""
    letters = [char for char in sample.completion if char.isalnum()]
    if not letters:
        return Verdict.unparseable("no letter in the completion")
    text, part = "".join(letters), str(sample.reference)
    if ignore_case:
        text, part = text.casefold(), part.casefold()
    details = {"letters": text[:80]}
    if len(text) < min_length:
        return Verdict.wrong(f"only {len(text)} letters", details)
    if text != text[::-1]:
        return Verdict.wrong("reads differently backwards", details)
    if part not in text:
        return Verdict.wrong(f"does not contain '{part}'", details)
    return Verdict.correct("a palindrome", details)
