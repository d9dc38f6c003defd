"""Punish completions that repeat themselves: the share of n-grams that occurred before.

With N n-grams of which U are different, value = U / N - 1: 0 without any repetition, towards -1 for
one phrase for ever. This is the repetition penalty of "Demystifying Long Chain-of-Thought
Reasoning" (Yeo et al. 2025, arXiv 2502.03373) in the simple form that open-r1 made common; their
per-token placement of the penalty is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from grpo_core import ScoredCompletion, shaper

Ngram = Annotated[int, Field(ge=1, description="length of the phrases that are compared")]
Unit = Annotated[
    Literal["tokens", "words"],
    Field(description="what phrases are made of; words are lower-cased and split at white space"),
]


@shaper(range=(-1.0, 0.0), version="1.0")
def repetition(scored: ScoredCompletion, *, ngram: Ngram = 4, unit: Unit = "tokens") -> float:
    """0 for a completion without repeated phrases, towards -1 for one that only repeats."""
    completion = scored.completion
    units = completion.token_ids if unit == "tokens" else completion.text.lower().split()
    return repetition_penalty(units, ngram)


def repetition_penalty(units: Sequence[Hashable], ngram: int) -> float:
    """U / N - 1; 0 where there are fewer than two n-grams."""
    phrases = [tuple(units[i : i + ngram]) for i in range(len(units) - ngram + 1)]
    return len(set(phrases)) / len(phrases) - 1.0 if phrases else 0.0
