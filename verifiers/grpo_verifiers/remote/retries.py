"""When to ask a server again, and how long to wait before."""

from __future__ import annotations

import datetime
import random
from email.utils import parsedate_to_datetime

# Too slow, too early, too many; and everything that is the server's own trouble.
_PASSING = frozenset({408, 425, 429})


def is_passing(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _PASSING or status >= 500


def backoff(attempt: int, base: float, ceiling: float) -> float:
    """Seconds before attempt `attempt` + 1: doubled each time, and spread by half either way.

    The spread keeps clients that failed together from coming back together.
    """
    return min(ceiling, base * 2.0 ** min(attempt - 1, 60)) * random.uniform(0.5, 1.5)


def retry_after(header: str | None, now: datetime.datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for: a number or a date; 0 without a usable one.

    Source: RFC 9110, 10.2.3.
    """
    if not header:
        return 0.0
    try:
        seconds = float(header)
        return seconds if 0 <= seconds < float("inf") else 0.0
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    now = now or datetime.datetime.now(datetime.UTC)
    return max(0.0, (date - now).total_seconds())
