"""What happened on the way to an answer, for details and messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Trace:
    """Requests sent, those of them that took too long, and the last trouble in words."""

    attempts: int = 0
    timeouts: int = 0
    trouble: str = ""
