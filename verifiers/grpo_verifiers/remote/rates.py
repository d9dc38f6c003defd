"""A limit on what is spent in any minute: requests, or tokens."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Taken:
    """An amount that counts from `at` on."""

    at: float
    amount: float


class RateLimit:
    """At most `amount` in any window of `period` seconds; who comes first is served first.

    An amount larger than the limit passes when the window is empty, or it would wait for ever.

    Args:
        amount: > 0.
        period: seconds.
        clock, sleep: the time; tests have their own.
    """

    def __init__(
        self,
        amount: float,
        period: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._amount = amount
        self._period = period
        self._clock = clock
        self._sleep = sleep
        self._window: deque[Taken] = deque()
        self._turn = asyncio.Lock()
        self._corrected = asyncio.Event()

    async def take(self, amount: float = 1.0) -> Taken:
        """Wait until `amount` fits, and take it."""
        async with self._turn:
            while True:
                now = self._clock()
                while self._window and self._window[0].at <= now - self._period:
                    self._window.popleft()
                if not self._window or self._used() + amount <= self._amount:
                    taken = Taken(now, amount)
                    self._window.append(taken)
                    return taken
                await self._wait(max(self._window[0].at + self._period - now, 1e-3))

    def correct(self, taken: Taken, amount: float) -> None:
        """Replace an estimate by the true amount; who waits for room finds it at once."""
        taken.amount = amount
        self._corrected.set()

    async def _wait(self, seconds: float) -> None:
        """Until then, or until an amount is corrected."""
        self._corrected.clear()
        waits = [
            asyncio.ensure_future(self._sleep(seconds)),
            asyncio.ensure_future(self._corrected.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _used(self) -> float:
        return sum(taken.amount for taken in self._window)
