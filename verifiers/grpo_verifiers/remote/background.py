"""An event loop in a thread of its own, for verifiers that wait for many answers at once.

`verify` is a plain function, may be called from a thread that runs a loop itself, and what lives on
a loop (connections, locks) must find the same loop at the next call.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundLoop:
    """Started when first used, in the process that uses it; ended with its owner or by `close`.

    Attributes:
        resources: closed on the loop when it ends; to be filled by coroutines that `run` runs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: weakref.finalize[..., BackgroundLoop] | None = None
        self._pid = 0
        self.resources = AsyncExitStack()

    def __reduce__(self) -> tuple[type[BackgroundLoop], tuple[()]]:
        return BackgroundLoop, ()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run it to its end; what it raises is raised here."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()  # after Ctrl-C nobody waits for it any more
            raise

    def close(self) -> None:
        """Close the resources and end the thread."""
        with self._lock:
            if self._stop is not None and self._thread is not None and self._pid == os.getpid():
                self._stop()
                self._thread.join()
            self._loop = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            # A forked process has the parent's loop, but not the thread that runs it.
            if self._loop is None or self._pid != os.getpid():
                self.resources = AsyncExitStack()
                self._loop = asyncio.new_event_loop()
                self._pid = os.getpid()
                self._thread = threading.Thread(
                    target=_serve,
                    args=(self._loop, self.resources),
                    daemon=True,
                    name="grpo-endpoint",
                )
                self._thread.start()
                self._stop = weakref.finalize(self, _end, self._loop, self._pid)
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, resources: AsyncExitStack) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(resources.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, pid: int) -> None:
    if pid == os.getpid() and not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
