"""Where the reasoning of a text ends and what it says begins."""

from __future__ import annotations

import re

_ENDS = re.compile(r"</(?:think|thinking|reasoning|thought)>")
_BEGINS = re.compile(r"<(?:think|thinking|reasoning|thought)>")


def after_reasoning(completion: str, *, opened: bool = False) -> str:
    """What follows the last `</think>`; nothing, if an opened `<think>` never ends.

    Args:
        completion: what the model wrote.
        opened: whether the prompt has begun the reasoning.
    """
    tail = completion
    if "</" in completion:
        for match in _ENDS.finditer(completion):
            tail, opened = completion[match.end() :], False
    if opened:
        return ""
    begins = _BEGINS.search(tail) if "<" in tail else None
    return tail[: begins.start()] if begins else tail


def final_part(text: str) -> str | None:
    """What follows the reasoning, whole; None when there is reasoning that never ends."""
    ends = list(_ENDS.finditer(text))
    if ends:
        return text[ends[-1].end() :]
    return None if _BEGINS.search(text) else text
