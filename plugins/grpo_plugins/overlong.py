"""Soft overlong punishment (DAPO: Yu et al. 2025, arXiv 2503.14476, eq. 13).

With |y| tokens in the completion, L_max tokens at most, and a buffer of L_cache tokens before that:

    R(y) =  0                                  if |y| <= L_max - L_cache
           ((L_max - L_cache) - |y|) / L_cache if L_max - L_cache < |y| <= L_max
           -1                                  if L_max < |y|

The paper trains with L_max = 20480 and L_cache = 4096, a fifth of it, and adds R with weight 1.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grpo_core import ScoredCompletion, shaper
from grpo_core.errors import ConfigError

MaxLength = Annotated[
    int | None,
    Field(ge=1, description="L_max in tokens; unset: sampling.max_new_tokens"),
]
Cache = Annotated[
    int | None,
    Field(ge=1, description="L_cache in tokens, at most L_max; unset: a fifth of L_max"),
]


@shaper(range=(-1.0, 0.0), version="1.0")
def overlong(
    scored: ScoredCompletion, *, max_length: MaxLength = None, cache: Cache = None
) -> float:
    """0 for completions that end well before the limit, sinking to -1 at the limit."""
    l_max = max_length or scored.max_new_tokens
    return soft_overlong(len(scored.completion.token_ids), l_max, cache or -(-l_max // 5))


def soft_overlong(length: int, l_max: int, l_cache: int) -> float:
    """R(y) for |y| = length.

    Raises:
        ConfigError: if the buffer is longer than the limit, so that even an empty completion
            would be punished.
    """
    if l_cache > l_max:
        raise ConfigError(
            f"overlong: cache must be at most the maximal length, got {l_cache} > {l_max}. "
            "Lower cache, or raise max_length or sampling.max_new_tokens."
        )
    if length <= l_max - l_cache:
        return 0.0
    if length <= l_max:
        return ((l_max - l_cache) - length) / l_cache
    return -1.0
