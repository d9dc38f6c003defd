"""The check of a reward shaper, and the judged completions it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.testing.creation import create_instance
from grpo_core.testing.texts import for_any_text
from grpo_core.types import (
    Completion,
    FinishReason,
    Json,
    Prompt,
    ScoredCompletion,
    Verdict,
)

_VERDICTS = (Verdict.correct(), Verdict.wrong(), Verdict.unparseable(), Verdict.error())


def check_shaper(
    shaper: Any,
    group: Sequence[ScoredCompletion] = (),
    options: Mapping[str, Any] | None = None,
) -> list[float]:
    """Check that a shaper keeps its range on a group and on odd texts.

    Args:
        shaper: a shaper class, a function decorated with `grpo_core.shaper`, or an instance.
        group: completions of one prompt; `make_scored` makes them.
        options: the shaper's options, where it is not an instance.

    Returns:
        Its values for `group`.

    Raises:
        AssertionError: for a value outside of the range, or not one value a completion.
        ConfigError: if the options are wrong.
    """
    instance = create_instance(shaper, options)

    def values_of(group: Sequence[ScoredCompletion]) -> list[float]:
        values = list(instance.shape(group))
        assert len(values) == len(group), f"{len(values)} values for {len(group)} completions"
        low, high = instance.range
        for scored, value in zip(group, values, strict=True):
            assert math.isfinite(value) and low <= value <= high, (
                f"{value!r} for {scored.completion.text!r:.200} is outside of [{low}, {high}]"
            )
        return values

    def stays_in_range(text: str) -> None:
        values_of([make_scored(text, verdict=verdict) for verdict in _VERDICTS])
        values_of([make_scored(text), make_scored(""), make_scored(text + text)])

    for_any_text(stays_in_range)
    return values_of(group)


def make_scored(
    text: str,
    *,
    num_tokens: int | None = None,
    verdict: Verdict | None = None,
    finish_reason: FinishReason = "eos",
    max_new_tokens: int = 256,
    reference: Json = "",
) -> ScoredCompletion:
    """A judged completion as shapers get them; its tokens are one a character unless set."""
    length = len(text) if num_tokens is None else num_tokens
    return ScoredCompletion(
        prompt=Prompt("test:0", ({"role": "user", "content": "What is 1 + 1?"},), reference),
        completion=Completion(
            token_ids=tuple(ord(c) for c in text) if num_tokens is None else tuple(range(length)),
            text=text,
            sampler_logprobs=(-1.0,) * length,
            finish_reason=finish_reason,
        ),
        verdict=verdict or Verdict.correct(),
        max_new_tokens=max_new_tokens,
    )
