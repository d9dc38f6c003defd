"""Judge completions in worker processes that are killed and replaced at their deadline.

A verifier that raises, hangs, crashes, or eats memory costs one verdict, whose status and reason
say so; the trainer, the other verdicts, and the other verifiers are not affected. What runs where:

    trainer process                     zygote                       workers
    submit() from any thread    starts  loads the plugins,   forks   run verifiers
    one dispatcher thread  <----------  forks and kills    ------->  ^
            ^-------------------- calls and verdicts ----------------'

The zygote is a fresh interpreter, so `__main__` needs no guard and threads of the trainer do not
matter. Verifiers live through many calls; what they leave behind in their process (caches, changed
globals) stays until it is replaced. A verifier may ask for a worker of its own (a model, an
endpoint with a rate limit), or to run in the trainer itself; see `grpo_core.protocols.Verifier`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from grpo_core.errors import ConfigError, PluginError, unknown_name
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_core.verification import isolation, protocol
from grpo_core.verification.calls import Failure, Job, VerifierCard
from grpo_core.verification.dispatcher import Dispatcher, PoolStats
from grpo_core.verification.in_trainer import InTrainer
from grpo_core.verification.launch import Setup, VerifierSpec

__all__ = ["PoolStats", "VerifierPool", "VerifierSpec"]


class VerifierPool:
    """A context manager; see the module.

    Args:
        verifiers: what can be asked; each name once.
        sources: where plugins are found; the workers load them themselves.
        workers: number of worker processes.
        deadline: seconds for one call, then the worker is killed; unless the verifier asks for
            another.
        memory_mb: how much a worker's address space may grow after the plugins are loaded; unless
            a verifier asks for another.
        start_deadline: seconds for loading the plugins, their preload() included.

    Raises:
        ConfigError, PluginError: what finding, importing, or configuring the verifiers raises.
        VerifierError: if no process can be started, or loading takes too long.
    """

    def __init__(
        self,
        verifiers: Sequence[VerifierSpec],
        sources: PluginSources,
        *,
        workers: int = 2,
        deadline: float = 5.0,
        memory_mb: int = 2048,
        start_deadline: float = 300.0,
    ) -> None:
        names = [spec.name for spec in verifiers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice or not names:
            raise ConfigError(
                f"verifiers must be named once each, and at least one, got {names}. "
                "Remove the doubles from 'verifiers'."
            )
        own = [spec.deadline for spec in verifiers if spec.deadline is not None]
        if workers < 1 or not min([deadline, *own]) > 0 or memory_mb < 1:
            raise ConfigError(
                "verification.workers, .deadline, and .memory_mb must be positive, got "
                f"{workers}, {min([deadline, *own]):g}, {memory_mb}."
            )
        directory = isolation.working_directory()
        setup = Setup(tuple(verifiers), sources, deadline, memory_mb, start_deadline, directory)
        self._dispatcher = Dispatcher(setup, workers)
        self._owner = os.getpid()
        self._in_trainer: dict[str, InTrainer] = {}
        try:
            self._in_trainer = self._start_threads(verifiers, sources)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def stats(self) -> PoolStats:
        """Counts, latencies, kills, and restarts so far."""
        stats = self._dispatcher.stats
        for name, thread in self._in_trainer.items():
            stats.counts[name] = {status: thread.counts[status] for status in Status}
            stats.seconds[name] = thread.seconds
        return stats

    @property
    def pids(self) -> list[int]:
        """Process ids: first the zygote's, then the workers'."""
        return self._dispatcher.pids

    def describe(self) -> Mapping[str, str]:
        """Verifier name -> version, for the manifest."""
        return {name: card.version for name, card in self._dispatcher.cards.items()}

    def submit(self, verifier_name: str, sample: Sample) -> Future[Verdict]:
        """Start judging a sample. From any thread; the future always resolves to a Verdict.

        The future resolves in the pool's own thread: callbacks added to it must be short.

        Raises:
            PluginError: if the pool has no such verifier.
            VerifierError: if the pool is closed or has broken down.
        """
        card = self._card(verifier_name)
        if verifier_name in self._in_trainer:
            return self._in_trainer[verifier_name].submit(sample)
        try:
            item = protocol.encode_sample(sample, card.reads)
        except (TypeError, ValueError, RecursionError) as error:
            cause = f"was not asked: the sample is not plain JSON ({type(error).__name__}: {error})"
            future: Future[Verdict] = Future()
            future.set_result(Failure(cause).verdict(card))
            return future
        return self._submit(Job("verify", card, item))

    def verify(self, verifier_name: str, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge samples; one verdict each, in order."""
        futures = [self.submit(verifier_name, sample) for sample in samples]
        return [future.result() for future in futures]

    async def averify(self, verifier_name: str, samples: Sequence[Sample]) -> list[Verdict]:
        """As `verify`, from a coroutine."""
        futures = [self.submit(verifier_name, sample) for sample in samples]
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))

    def check_references(self, verifier_name: str, references: Sequence[Json]) -> list[str | None]:
        """For each reference None, or why the verifier cannot read it."""
        card = self._card(verifier_name)
        if not card.checks_references:
            return [None] * len(references)
        if thread := self._in_trainer.get(verifier_name):
            return [thread.check_reference(reference) for reference in references]
        futures = [self._check(card, reference) for reference in references]
        return [future.result() for future in futures]

    def close(self) -> None:
        """End all processes. What is pending resolves as `abstain`. May be called again."""
        if os.getpid() == self._owner:  # not in a fork of the trainer
            for thread in self._in_trainer.values():
                thread.close()
            self._dispatcher.close()

    def _start_threads(
        self, verifiers: Sequence[VerifierSpec], sources: PluginSources
    ) -> dict[str, InTrainer]:
        """The verifiers that run in this process, by name."""
        cards = self._dispatcher.cards
        here = [spec for spec in verifiers if cards[spec.name].placement == "trainer"]
        if not here:
            return {}
        registry = load_plugins(sources).verifiers
        found = {}
        for spec in here:
            verifier = registry.create(spec.name, spec.options)
            if callable(preload := getattr(verifier, "preload", None)):
                with registry[spec.name].attributed("preloaded"):
                    preload()
            found[spec.name] = InTrainer(verifier, cards[spec.name])
        return found

    def _card(self, name: str) -> VerifierCard:
        cards = self._dispatcher.cards
        if name not in cards:
            raise PluginError(unknown_name("verifier", name, cards, "Is it in 'verifiers'?"))
        return cards[name]

    def _check(self, card: VerifierCard, reference: Json) -> Future[str | None]:
        try:
            item = json.dumps(reference)
        except (TypeError, ValueError, RecursionError) as error:
            future: Future[str | None] = Future()
            future.set_result(f"the reference is not plain JSON: {error}")
            return future
        return self._submit(Job("check", card, item))

    def _submit(self, job: Job) -> Future:
        self._dispatcher.submit(job)
        return job.future
