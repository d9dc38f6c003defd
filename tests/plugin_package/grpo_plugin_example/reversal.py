"""A task."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from grpo_core import Prompt

WORDS = ("anchor", "basket", "candle", "dragon", "engine", "forest", "garden", "hammer")


class Reversal:
    """Write a word backwards. Format: one message; the reference is the reversed word.

    Source: made by this module; no licence applies.
    """

    version = "1.0"
    default_verifier = "exact"
    splits = ("train", "test")
    evaluation_split = "test"

    class Config(BaseModel, frozen=True, extra="forbid"):
        """Options."""

        upper: bool = Field(False, description="words in capitals")

    def __init__(self, config: Config) -> None:
        self.config = config

    def load(self, split: str) -> Sequence[Prompt]:
        """Every fourth word is held out."""
        held_out = WORDS[::4]
        words = [word for word in WORDS if (word in held_out) == (split == "test")]
        return [self._prompt(word.upper() if self.config.upper else word) for word in words]

    def _prompt(self, word: str) -> Prompt:
        text = f"Write '{word}' backwards. Answer with the word only."
        return Prompt(f"reversal:{word}", ({"role": "user", "content": text},), word[::-1])
