"""Stop at a moment when nothing is half done."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType


class StopRequested(Exception):
    """The user wants the run to stop; raised only where no weights are being changed."""


class Interruption:
    """Whether the user pressed Ctrl-C."""

    def __init__(self) -> None:
        self._requested = False

    def request(self) -> None:
        """Ask for a stop at the next safe moment."""
        self._requested = True

    def check(self) -> None:
        """Called at safe moments.

        Raises:
            StopRequested: if a stop was asked for.
        """
        if self._requested:
            raise StopRequested


@contextmanager
def ctrl_c() -> Iterator[Interruption]:
    """While it lasts, the first Ctrl-C asks for a stop, the second one forces it.

    So do SIGTERM, and SIGHUP, which a terminal sends when it is closed, unless nohup has switched
    it off. Signals can only be handled in the main thread; elsewhere nothing is installed.
    """
    interruption = Interruption()

    def handle(number: int, frame: FrameType | None) -> None:
        interruption.request()
        signal.signal(number, _raise if number == signal.SIGINT else signal.SIG_DFL)
        # Nothing may be raised here, in the middle of an optimiser step, perhaps: not when nobody
        # reads stderr any more, nor when the signal came while something was written to it.
        with suppress(OSError, RuntimeError, ValueError):
            print(f"\n{_MESSAGE}", file=sys.stderr)

    try:
        before = {number: signal.signal(number, handle) for number in _signals()}
    except ValueError:  # not in the main thread
        yield interruption
        return
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_MESSAGE = "stopping as soon as nothing is half done; once more forces it"
_raise = signal.default_int_handler


def _signals() -> list[signal.Signals]:
    is_off = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if is_off else [signal.SIGHUP])]
