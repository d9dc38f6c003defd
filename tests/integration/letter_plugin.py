"""A file plugin with which a tiny random model learns in seconds: say many letters."""

from __future__ import annotations

import os
import time
from string import ascii_letters

from grpo_core import Prompt, Sample, Verdict, hookimpl, shaper, verifier


class Letters:
    """Prompts without meaning."""

    version = "1"
    default_verifier = "many_letters"
    splits = ("train", "test")
    evaluation_split = "test"

    def load(self, split: str) -> list[Prompt]:
        first = 0 if split == "train" else 1000
        return [
            Prompt(f"{split}-{n}", [{"role": "user", "content": f"speak {first + n}"}], "abc")
            for n in range(40)
        ]


@verifier(version="1")
def many_letters(sample: Sample, *, least: int = 3) -> Verdict:
    """Right when at least `least` ASCII letters are in the completion."""
    found = sum(letter in ascii_letters for letter in sample.completion)
    return Verdict.correct() if found >= least else Verdict.wrong(f"{found} of {least}")


@verifier(version="1")
def moody(sample: Sample, *, mood: str = "raise") -> Verdict | float | bool:
    """Misbehaves on completions of even length, in the way its option says."""
    if len(sample.completion) % 2:
        return "e" in sample.completion
    if mood == "raise":
        raise RuntimeError("moody today")
    if mood == "hang":
        time.sleep(600)
    if mood == "nan":
        return float("nan")
    if mood == "exit":
        os._exit(3)
    if mood == "memory":
        return bool(bytearray(1 << 34))
    raise AssertionError(mood)


class WrongCount:
    """Gives one verdict too many."""

    version = "1"

    def verify(self, samples: list[Sample]) -> list[Verdict]:
        return [Verdict.correct()] * (len(samples) + 1)


@shaper(range=(-1, 0))
def brevity(scored, *, scale: float = 0.01) -> float:
    """A little less for every token."""
    return max(-1.0, -scale * len(scored.completion.token_ids))


@hookimpl
def grpo_register_tasks(register):
    register("letters", Letters)


@hookimpl
def grpo_register_verifiers(register):
    register("many_letters", many_letters)
    register("moody", moody)
    register("wrong_count", WrongCount)


@hookimpl
def grpo_register_shapers(register):
    register("brevity", brevity)
