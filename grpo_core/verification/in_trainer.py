"""A verifier that runs in a thread of the trainer, because it shares a model or memory with it.

It is not contained: a hang stops the run, and a crash ends it. What it raises, and what it returns
that is no verdict, becomes a verdict of status `error`, as in a worker.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_core.verification.calls import Failure, VerifierCard
from grpo_core.verification.protocol import decode_verdict, encode_verdict

_Item = tuple[Sample, "Future[Verdict]"]


class InTrainer:
    """One thread that hands a verifier the samples that wait, in batches.

    Args:
        verifier: an instance; used by the one thread only.
        card: what it says of itself.
    """

    def __init__(self, verifier: Any, card: VerifierCard) -> None:
        self.counts: Counter[Status] = Counter()
        self.seconds = 0.0
        self._verifier = verifier
        self._card = card
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between submit and close
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"grpo-{card.name}", daemon=True)
        self._thread.start()

    def submit(self, sample: Sample) -> Future[Verdict]:
        """Start judging a sample; the future always resolves to a Verdict.

        Raises:
            VerifierError: if the pool is closed.
        """
        future: Future[Verdict] = Future()
        with self._lock:
            if self._is_closed:
                raise VerifierError("the verifier pool is closed")
            self._waiting.put((sample, future))
        return future

    def check_reference(self, reference: Json) -> str | None:
        """None, or why the verifier cannot read a reference."""
        try:
            self._verifier.check_reference(reference)
        except BaseException as error:  # noqa: BLE001 - a stranger's code; its message is the result
            return f"{self._card} raised {type(error).__name__}: {error}"
        return None

    def close(self) -> None:
        """Resolve what has not begun as `abstain`, and wait for the call under way."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            verdicts = self._judge([sample for sample, _ in batch])
            for (_, future), verdict in zip(batch, verdicts, strict=True):
                self.counts[verdict.status] += 1
                self.seconds += verdict.seconds
                future.set_result(verdict)

    def _take(self) -> list[_Item]:
        """The samples of the next call; none when the pool is being closed."""
        batch: list[_Item] = []
        while len(batch) < self._card.batch_size:
            if batch and self._waiting.empty():
                break
            item = self._waiting.get()
            if item is None or self._is_closed:
                self._dismiss([*batch, *([item] if item else [])])
                return []
            if item[1].set_running_or_notify_cancel():
                batch.append(item)
        return batch

    def _dismiss(self, items: list[_Item]) -> None:
        while not self._waiting.empty():
            if item := self._waiting.get():
                items.append(item)
        for _, future in items:
            if future.running() or future.set_running_or_notify_cancel():
                reason = f"{self._card} did not judge: the verifier pool is closed"
                future.set_result(Verdict.abstain(reason))

    def _judge(self, samples: list[Sample]) -> list[Verdict]:
        started = time.perf_counter()
        try:
            verdicts = list(self._verifier.verify(samples))
            seconds = (time.perf_counter() - started) / len(samples)
            return self._checked(verdicts, len(samples), seconds)
        except BaseException as error:  # noqa: BLE001 - the boundary to the plugin, as in a worker
            seconds = (time.perf_counter() - started) / len(samples)
            cause = f"raised {type(error).__name__}: {error}"
            return [Failure(cause, seconds=seconds).verdict(self._card)] * len(samples)

    def _checked(self, verdicts: Sequence[Any], count: int, seconds: float) -> list[Verdict]:
        """The verdicts as they would have come out of a worker: bounded, and plain JSON."""
        if len(verdicts) != count:
            raise ValueError(f"{len(verdicts)} verdicts for {count} samples")
        found = []
        for verdict in verdicts:
            if not isinstance(verdict, Verdict):
                raise TypeError(f"got {verdict!r:.60} where a Verdict was expected")
            plain = json.loads(encode_verdict(verdict))
            found.append(decode_verdict(plain, self._card.name, self._card.version, seconds))
        return found
