"""The `judge` verifier: a language model decides, behind any OpenAI-compatible endpoint.

Sample to verdict: `request` writes what is asked (`screen` and `candidate` defend the judge against
the answer), `session` asks and counts, `forms` reads the answer. Only a verdict that the judge
really gave counts; everything else is abstain, timeout, or error.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_verifiers.judge.canaries import as_sample, disagreements, find_canaries
from grpo_verifiers.judge.config import JudgeConfig
from grpo_verifiers.judge.request import Request, RequestWriter
from grpo_verifiers.remote.address import read_key
from grpo_verifiers.remote.background import BackgroundLoop

if TYPE_CHECKING:
    from grpo_verifiers.judge.budget import Usage
    from grpo_verifiers.judge.cache import Outcome
    from grpo_verifiers.judge.session import Session

_GRACE = 15.0  # seconds between our own deadline and the kill
_SHOWN = 600  # characters of the judge's reasons in details
_MAX_BATCH = 128


class JudgeVerifier:
    """A language model judges the answer, against the reference or by a rubric.

    Any OpenAI-compatible endpoint. No verdict from it is abstain, no answer timeout or error.

    Raises:
        ConfigError: if a file of the options cannot be read, or the key's variable is not set.
    """

    version = "1.0"
    placement = "process"  # one cache, one budget, one rate
    Config = JudgeConfig

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._writer = RequestWriter(config)
        self._canaries = find_canaries(config.guard)
        self._canary_report: list[str] | None = None
        self._loop = BackgroundLoop()
        self._session: tuple[int, Session] | None = None
        read_key(config.api_key_env)  # not kept: an instance may be printed or pickled

    @property
    def deadline(self) -> float:
        """Seconds for one call; our own deadline comes first, and keeps what is judged by then."""
        return self.config.limits.deadline + _GRACE

    @property
    def batch_size(self) -> int:
        """No more samples at once than the rate lets through in half the deadline."""
        limits, votes = self.config.limits, self.config.answering.votes
        rate = limits.requests_per_minute
        if rate is None:
            return _MAX_BATCH
        return max(1, min(_MAX_BATCH, int(rate / 60 * limits.deadline / 2 / votes)))

    def preload(self) -> None:
        """Import the HTTP client, once, before processes are forked."""
        import grpo_verifiers.judge.session  # noqa: F401 - httpx2 takes a while

    def check_reference(self, reference: Json) -> None:
        """Refuse a missing reference where the template shows it.

        Raises:
            VerifierError: if it is missing.
        """
        self._writer.check_reference(reference)

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; equal samples are asked about once.

        Raises:
            VerifierError: if the judge is wrong on a canary and `guard.when_wrong` is "error", or
                the cache cannot be used.
        """
        written = [self._writer.write(sample) for sample in samples]
        requests = {item.key: item for item in written if isinstance(item, Request)}
        judged: dict[str, Verdict] = {}
        if requests:
            judged = self._loop.run(self._judge(requests))
        verdicts: list[Verdict] = []
        for item in written:
            if isinstance(item, Verdict):
                verdicts.append(item)
            else:
                verdicts.append(judged[item.key])
                judged[item.key] = _shared(judged[item.key])
        return verdicts

    def close(self) -> None:
        """Close connections and files; the next call opens them again."""
        self._loop.close()
        self._session = None

    async def _judge(self, requests: dict[str, Request]) -> dict[str, Verdict]:
        session = await self._open()
        end = asyncio.get_running_loop().time() + self.config.limits.deadline
        if self._canary_report is None:
            self._canary_report = await self._check_canaries(session, end)
        verdicts = await self._judge_until(session, requests, end)
        if self._canary_report:
            report = {"canaries_wrong": self._canary_report}
            return {
                key: replace(verdict, details={**verdict.details, **report})
                for key, verdict in verdicts.items()
            }
        return verdicts

    async def _open(self) -> Session:
        from grpo_verifiers.judge.session import Session

        if self._session is None or self._session[0] != os.getpid():
            session = Session(self.config, self._writer, read_key(self.config.api_key_env))
            self._loop.resources.push_async_callback(session.close)
            self._session = os.getpid(), session
        return self._session[1]

    async def _judge_until(
        self, session: Session, requests: dict[str, Request], end: float
    ) -> dict[str, Verdict]:
        tasks = {
            key: asyncio.create_task(self._judge_one(session, request))
            for key, request in requests.items()
        }
        left = max(0.0, end - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(tasks.values(), timeout=left)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return {
            key: self._late(requests[key]) if task in late else task.result()
            for key, task in tasks.items()
        }

    async def _judge_one(self, session: Session, request: Request) -> Verdict:
        from grpo_verifiers.judge.budget import BudgetSpent, Usage
        from grpo_verifiers.judge.session import NoVerdict
        from grpo_verifiers.remote.endpoint import EndpointFailure

        usage = Usage()
        try:
            outcome, is_cached = await session.ask(request, usage)
        except NoVerdict as error:
            reason = f"the judge gave no verdict: {error}"
            return Verdict.abstain(reason, self._details(request, usage))
        except BudgetSpent as error:
            spent = Verdict.error if self.config.limits.when_spent == "error" else Verdict.abstain
            return spent(str(error), self._details(request, usage))
        except EndpointFailure as error:
            failed = Verdict.timeout if error.timed_out else Verdict.error
            return failed(f"the judge: {error}", self._details(request, usage))
        return self._verdict(request, outcome, usage, is_cached)

    def _verdict(
        self, request: Request, outcome: Outcome, usage: Usage, is_cached: bool
    ) -> Verdict:
        is_median = self.config.answering.aggregate == "median"
        score = (statistics.median if is_median else statistics.fmean)(outcome.scores)
        details = {
            **self._details(request, usage),
            "cached": is_cached,
            "votes": list(outcome.scores),
            "choices": [dict(choices) for choices in outcome.choices],
            "reasoning": outcome.reasoning[:_SHOWN],
        }
        counts = "" if len(outcome.scores) == 1 else f", {len(outcome.scores)} votes"
        chosen = ", ".join(f"{key} {choice}" for key, choice in outcome.choices[0].items())
        is_correct = score >= self.config.correct_at - 1e-9
        status = Status.CORRECT if is_correct else Status.WRONG
        return Verdict(status, score, f"the judge: {chosen} (score {score:.3g}{counts})", details)

    def _late(self, request: Request) -> Verdict:
        last = f"; the last trouble was {request.trace.trouble}" if request.trace.trouble else ""
        return Verdict.timeout(
            f"the judge gave no verdict within limits.deadline = {self.config.limits.deadline:g} s"
            f"{last}",
            {"model": self.config.model, "attempts": request.trace.attempts},
        )

    def _details(self, request: Request, usage: Usage) -> dict[str, Json]:
        limits = self.config.limits
        counted = asdict(usage)
        if not (limits.input_price or limits.output_price):
            del counted["cost"]
        left_out = {"left_out_chars": request.left_out} if request.left_out else {}
        return {
            "model": self.config.model,
            "usage": counted,
            "attempts": request.trace.attempts,
            **left_out,
        }

    async def _check_canaries(self, session: Session, end: float) -> list[str]:
        """What is wrong, in words; judged once in a process.

        Raises:
            VerifierError: if there is anything, or a canary cannot be judged, and
                `guard.when_wrong` is "error".
        """
        written = [self._writer.write(as_sample(canary)) for canary in self._canaries]
        requests = {item.key: item for item in written if isinstance(item, Request)}
        if not written:
            return []
        judged = await self._judge_until(session, requests, end) if requests else {}
        verdicts = [item if isinstance(item, Verdict) else judged[item.key] for item in written]
        wrong = disagreements(self._canaries, verdicts)
        failed = [verdict for verdict in verdicts if verdict.status in ("timeout", "error")]
        if failed and self.config.guard.when_wrong == "error":
            raise VerifierError(f"a canary cannot be judged: {failed[0].reason}")
        if wrong and self.config.guard.when_wrong == "error":
            raise VerifierError(
                f"the judge is wrong on {len(wrong)} of {len(self._canaries)} canaries: "
                f"{'; '.join(wrong[:3])}. Use a better model or template, correct the canary, or "
                "set guard.when_wrong = 'report'."
            )
        for line in wrong:
            print(f"grpo: the judge is wrong on a canary: {line}", file=sys.stderr)
        return wrong


def _shared(verdict: Verdict) -> Verdict:
    """The same verdict for an equal sample of the batch: it took no call of its own."""
    if not verdict.status.is_candidates:
        return verdict
    usage = dict.fromkeys(verdict.details["usage"], 0)
    details = {**verdict.details, "cached": True, "usage": usage, "attempts": 0}
    return replace(verdict, details=details)
