"""The verdicts do not depend on who calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from grpo_core.testing.answers import Answer, ask_singly
from grpo_core.testing.bench import Bench, CheckSkipped
from grpo_core.testing.checks.repeats import compare
from grpo_core.types import Json


def check_thread(bench: Bench) -> Mapping[str, Json]:
    """From a thread that is not the main one: what relies on SIGALRM fails there."""
    samples = bench.safe_samples
    if not samples:
        raise CheckSkipped("no example gets an answer")
    found: list[Answer] = []
    wanted = list(bench.ask_each(samples))
    thread = threading.Thread(
        target=lambda: found.extend(ask_singly(bench.instance, samples)), daemon=True
    )
    thread.start()
    thread.join()
    compare(samples, wanted, found, "in the main thread", "in another one")
    return {"samples": len(samples)}


def check_asyncio(bench: Bench) -> Mapping[str, Json]:
    """While an event loop runs in the calling thread, and from coroutines through the pool."""
    samples = bench.safe_samples
    if not samples:
        raise CheckSkipped("no example gets an answer")
    wanted = list(bench.ask_each(samples))

    async def within_a_loop() -> list[Answer]:
        return ask_singly(bench.instance, samples)

    found = asyncio.run(within_a_loop())
    compare(samples, wanted, found, "without an event loop", "while one runs")
    pool = bench.pool
    if pool is not None:
        verdicts = asyncio.run(pool.averify(bench.subject.name, samples))
        again = pool.verify(bench.subject.name, samples)
        compare(
            samples, map(Answer, again), map(Answer, verdicts), "in the pool", "from a coroutine"
        )
    return {"samples": len(samples)}
