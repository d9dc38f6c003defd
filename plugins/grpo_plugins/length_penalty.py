"""Reward shorter completions: against the others of the group, or against a target length.

group: the length reward of Kimi k1.5 (Kimi Team 2025, arXiv 2501.12599, sec. 2.3.3). With len the
number of tokens, min and max taken over the group,

    lambda = 0.5 - (len - min) / (max - min)
    value  = lambda if the completion is correct, min(0, lambda) if not; 0 if max = min

target: value = -min(1, max(0, len - target) / target)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, Field, PositiveInt, model_validator

from grpo_core import ScoredCompletion


class LengthPenalty:
    """Longer completions get less, down to -0.5 in a group, -1 against a target length.

    A completion that no verifier could judge gets 0, and its length does not count in the group.
    """

    version = "1.0"
    range = (-1.0, 0.5)

    class Config(BaseModel, frozen=True, extra="forbid"):
        """Options."""

        relative_to: Literal["group", "target"] = Field(
            "group", description="compare with the group's lengths, or with `target`"
        )
        target: PositiveInt | None = Field(
            None, description="tokens that cost nothing; twice as many cost 1"
        )
        only_correct: bool = Field(
            False, description="shape correct completions only, all others get 0"
        )

        @model_validator(mode="after")
        def _target_fits(self) -> Self:
            if (self.relative_to == "target") != (self.target is not None):
                raise ValueError(
                    f"target belongs to relative_to='target', got relative_to="
                    f"'{self.relative_to}' and target={self.target}. Set both, or neither."
                )
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def shape(self, group: Sequence[ScoredCompletion]) -> Sequence[float]:
        """One value a completion, in [-1, 0.5]."""
        judged = [scored for scored in group if self._counts(scored)]
        lengths = [len(scored.completion.token_ids) for scored in judged]
        low, high = min(lengths, default=0), max(lengths, default=0)
        return [self._value(scored, low, high) if self._counts(scored) else 0.0 for scored in group]

    def _counts(self, scored: ScoredCompletion) -> bool:
        if self.config.only_correct:
            return scored.verdict.is_correct
        return scored.verdict.status.is_candidates

    def _value(self, scored: ScoredCompletion, low: int, high: int) -> float:
        length = len(scored.completion.token_ids)
        if self.config.target is not None:
            return target_penalty(length, self.config.target)
        value = group_reward(length, low, high)
        return value if scored.verdict.is_correct else min(0.0, value)


def group_reward(length: int, low: int, high: int) -> float:
    """0.5 for the shortest of the group, -0.5 for the longest, 0 where all are equally long."""
    return 0.5 - (length - low) / (high - low) if high > low else 0.0


def target_penalty(length: int, target: int) -> float:
    """0 up to the target, then down in proportion, to -1 from twice the target on."""
    return -min(1.0, (length - target) / target) if length > target else 0.0
