"""A reward that gives nearly every group signal, whatever the model says; a plugin file.

It is a hash of the completion's text, so that it is the same function for everybody, costs
nothing, and its worth does not change as the model is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

from grpo_core import Verdict, hookimpl, verifier


def hash_reward(text: str) -> float:
    """A number in [0, 1) that depends on every character of a text."""
    return crc32(text.encode()) % 1000 / 1000


@verifier(version="1")
def benchmark_hash(sample: Any) -> Verdict:
    """Scores a completion by the hash of its text."""
    return Verdict.wrong(score=hash_reward(sample.completion))


@hookimpl
def grpo_register_verifiers(register: Callable[[str, Any], None]) -> None:
    register("benchmark_hash", benchmark_hash)
