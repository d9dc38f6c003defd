"""A reward shaper."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grpo_core import ScoredCompletion, shaper


@shaper(range=(-1.0, 0.0), version="1.0")
def question_marks(
    scored: ScoredCompletion,
    *,
    free: Annotated[int, Field(ge=0, description="question marks that cost nothing")] = 0,
) -> float:
    """0 without question marks, towards -1 with ever more of them."""
    surplus = max(0, scored.completion.text.count("?") - free)
    return 1 / (1 + surplus) - 1
