"""Where a text's reasoning ends, for texts of reasoning models: the judge's and the judged."""

from __future__ import annotations

_START, _END = "<think>", "</think>"


def final_part(text: str) -> str | None:
    """What follows the reasoning; None when the reasoning never ends."""
    if _END in text:
        return text.rpartition(_END)[2]
    return None if _START in text else text
