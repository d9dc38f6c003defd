"""The batch of the next step, made while the one before is trained on (selection.ahead).

Sampling and verification run in a thread beside the update, with the weights of before it, so a
batch is trained on by weights that are exactly one update younger than those that sampled it. The
ratio of the two, `sampling.mismatch`, makes up for that; see docs/algorithms.md.

Sources: Noukhovitch et al. 2024, "Asynchronous RLHF", arXiv 2410.18252 (one step off-policy);
Hilton et al. 2021, "Batch size-invariance for policy optimization", arXiv 2110.00641 (the weight
and the clipped ratio apart).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace

from grpo_core.config import RunConfig
from grpo_core.records.rollouts import rollouts_from_bytes, rollouts_to_bytes
from grpo_core.rollout import Collection, OnProgress
from grpo_core.training.interruption import StopRequested
from grpo_core.training.selection import PromptSource
from grpo_core.types import Json, RolloutGroup

Make = Callable[[int, OnProgress | None], Collection]


class _CalledOff(Exception):
    """The step beside which a batch was being made has failed, so nobody wants it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The judged groups of a step, and what metrics.jsonl says of their making."""

    collection: Collection
    metrics: Mapping[str, float]


class Batches:
    """Makes the batch of each step in its turn, or beside the update before. A context.

    At its end no thread is at work any more, whatever has happened.

    Attributes:
        waited: seconds that the last `finish` waited.
    """

    def __init__(
        self,
        make: Make,
        source: PromptSource,
        config: RunConfig,
        on_progress: OnProgress | None,
        kept: Sequence[RolloutGroup] | None,
    ) -> None:
        """Nothing is made yet.

        Args:
            make: samples and judges the batch of a step, telling of its progress.
            source: the prompts it draws from.
            config: says whether batches are made ahead, and which step is the last one.
            on_progress: may raise StopRequested where nothing is being changed.
            kept: the first batch, if an earlier sitting has made it.
        """
        self.waited = 0.0
        self._make = make
        self._source = source
        self._on_progress = on_progress
        self._config = config
        self._next = None if kept is None else self._batch(Collection([*kept], 0.0, 0.0), 1)
        self._before: Mapping[str, Json] | None = None
        self._future: Future[Collection] | None = None
        self._called_off = threading.Event()
        self._executor = ThreadPoolExecutor(1, "grpo-ahead")

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self._called_off.set()
        self._executor.shutdown()

    @property
    def kept(self) -> Sequence[RolloutGroup] | None:
        """The groups of the next step, where they have been made; part of a checkpoint."""
        return None if self._next is None else self._next.collection.groups

    @property
    def selection(self) -> Mapping[str, Json]:
        """The state of the source with which a run goes on that has `kept`, or has not."""
        return self._source.state() if self._before is None else self._before

    def take(self, step: int) -> Batch:
        """The batch of a step: the one that was made ahead, or else one made now."""
        batch, self._next = self._next, None
        return batch or self._batch(self._make(step, self._on_progress), 0)

    def begin(self, step: int) -> None:
        """Start making the batch of `step`, if there is such a step and batches are made ahead."""
        if self._config.selection.ahead and step <= self._config.trainer.steps:
            self._before = self._source.state()
            self._future = self._executor.submit(self._make_ahead, step)

    def finish(self) -> Exception | None:
        """Wait for what was begun; what went wrong with it is returned, not raised."""
        started = time.perf_counter()
        self.waited = 0.0
        if self._future is None:
            return None
        future, self._future = self._future, None
        failure = future.exception()
        self.waited = time.perf_counter() - started
        if isinstance(failure, Exception):
            return failure
        made = future.result()
        taken = made.seconds_sample + made.seconds_verify
        self._next = self._batch(made, 1, hidden=max(taken - self.waited, 0.0))
        self._before = None
        return None

    def _batch(self, made: Collection, staleness: int, *, hidden: float = 0.0) -> Batch:
        """With the updates between the weights that sampled it and those that train on it."""
        metrics = {"staleness": staleness, "seconds_hidden": hidden}
        return Batch(made, metrics if self._config.selection.ahead else {})

    def _make_ahead(self, step: int) -> Collection:
        """As a checkpoint keeps it, so that a resumed run trains on the very same numbers."""
        made = self._make(step, self._tell)
        return replace(made, groups=rollouts_from_bytes(rollouts_to_bytes(made.groups)))

    def _tell(self, done: int, total: int) -> None:
        if self._called_off.is_set():
            raise _CalledOff
        # A stop has to wait until the update is whole and the batch can be saved with it.
        with suppress(StopRequested):
            if self._on_progress is not None:
                self._on_progress(done, total)
