"""Questions to the endpoint and what comes of them; lives on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.types import Json
from grpo_verifiers.judge.budget import Budget, Usage, estimate_tokens, read_usage
from grpo_verifiers.judge.cache import Outcome, OutcomeCache
from grpo_verifiers.judge.config import JudgeConfig
from grpo_verifiers.judge.forms import Opinion
from grpo_verifiers.judge.request import Request, RequestWriter
from grpo_verifiers.remote.endpoint import Endpoint, EndpointRefusal, RetryPolicy
from grpo_verifiers.remote.rates import RateLimit

# Words by which servers say that they have no structured output.
_NO_SCHEMA = ("response_format", "json_schema", "structured", "guided", "grammar")


class NoVerdict(Exception):
    """The judge answered, but not with a verdict."""


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What this endpoint understands, as far as is known."""

    as_json: bool
    max_tokens: str = "max_tokens"


class Session:
    """See the module.

    Raises:
        VerifierError: if the cache's file cannot be used.
    """

    def __init__(self, config: JudgeConfig, writer: RequestWriter, key: str) -> None:
        limits = config.limits
        self._config = config
        self._writer = writer
        self._cache = OutcomeCache(config.cache.size, config.cache.path)
        self._budget = Budget(limits, self._cache)
        self._requests = _rate(limits.requests_per_minute)
        self._tokens = _rate(limits.tokens_per_minute)
        self._dialect = _Dialect(as_json=config.answering.output != "text")
        self._endpoint = Endpoint(
            [f"{config.base_url.rstrip('/')}/chat/completions"],
            RetryPolicy(limits.attempts, limits.timeout),
            key,
            limits.concurrency,
        )

    async def close(self) -> None:
        """Close the connections and the cache."""
        self._cache.close()
        await self._endpoint.close()

    async def ask(self, request: Request, usage: Usage) -> tuple[Outcome, bool]:
        """The votes on a request, and whether they come from the cache.

        Raises:
            NoVerdict: if more than half of the votes are none.
            BudgetSpent: if they may not be asked for.
            EndpointFailure: if they cannot be had.
        """
        cached = self._cache.get(request.key)
        if cached is not None:
            return cached, True
        votes = self._config.answering.votes
        results = await asyncio.gather(
            *(self._vote(request, usage) for _ in range(votes)), return_exceptions=True
        )
        opinions = [result for result in results if isinstance(result, Opinion)]
        if 2 * len(opinions) <= votes:
            failures = [result for result in results if isinstance(result, BaseException)]
            # What is not the judge's silence is worse, and has a cure.
            raise min(failures, key=lambda failure: isinstance(failure, NoVerdict))
        outcome = Outcome(
            scores=tuple(opinion.score for opinion in opinions),
            choices=tuple(dict(opinion.choices) for opinion in opinions),
            reasoning=opinions[0].reasoning,
        )
        self._cache.put(request.key, outcome)
        return outcome, False

    async def _vote(self, request: Request, usage: Usage) -> Opinion:
        while True:
            dialect = self._dialect
            body = self._body(request, dialect)
            try:
                data = await self._send(body, request, usage)
            except EndpointRefusal as refusal:
                other = self._other_dialect(dialect, refusal)
                if other is None:
                    raise self._with_hint(refusal) from None
                self._dialect = other
            else:
                return self._opinion(data["choices"][0])

    def _body(self, request: Request, dialect: _Dialect) -> dict[str, Json]:
        answering = self._config.answering
        prompt = self._writer.prompt(request, dialect.as_json)
        body: dict[str, Json] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": prompt}],
            dialect.max_tokens: answering.max_tokens,
        }
        if answering.temperature is not None:
            body["temperature"] = answering.temperature
        if dialect.as_json:
            schema = {"name": "verdict", "schema": self._writer.form.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {**body, **answering.extra}

    async def _send(
        self, body: Mapping[str, Json], request: Request, usage: Usage
    ) -> dict[str, Any]:
        """An answer; every request for it is counted, paid, and held to the rates."""
        expected = Usage(
            estimate_tokens(body["messages"][0]["content"]), self._config.answering.max_tokens
        )
        reserved: list[float] = []
        tokens = expected.prompt_tokens + expected.completion_tokens
        taken = None

        async def gate() -> None:
            nonlocal taken
            if self._requests is not None:
                await self._requests.take()
            if self._tokens is not None:
                taken = await self._tokens.take(tokens)
            reserved.append(self._budget.reserve(expected))

        trace = replace(request.trace, attempts=0, timeouts=0)
        actual: Usage | None = None
        try:
            data = await self._endpoint.ask(body, trace, gate, _complaint)
            actual = read_usage(data) or expected
            return data
        except asyncio.CancelledError:
            trace.timeouts += 1
            raise
        finally:
            if self._tokens is not None and taken is not None and actual is not None:
                self._tokens.correct(taken, actual.prompt_tokens + actual.completion_tokens)
            self._settle(usage, reserved, trace.timeouts, actual)
            request.trace.attempts += trace.attempts
            request.trace.trouble = trace.trouble

    def _settle(
        self, usage: Usage, reserved: list[float], timeouts: int, actual: Usage | None
    ) -> None:
        """An answer costs what it says; one that came too late may have been paid in full."""
        late = sorted(reserved)[len(reserved) - min(timeouts, len(reserved)) :]
        cost = sum(late) + (self._budget.cost(actual) if actual else 0.0)
        self._budget.settle(sum(reserved), cost)
        usage.calls += len(reserved)
        usage.cost += cost
        if actual is not None:
            usage.prompt_tokens += actual.prompt_tokens
            usage.completion_tokens += actual.completion_tokens

    def _opinion(self, choice: Mapping[str, Any]) -> Opinion:
        reason = choice.get("finish_reason")
        if reason == "length":
            limit = self._config.answering.max_tokens
            raise NoVerdict(
                f"its answer was cut off at {limit} tokens; raise answering.max_tokens, or set "
                "answering.explain = false"
            )
        message = choice["message"]
        text = _text(message.get("content"))
        opinion = self._writer.form.read(text)
        if opinion is not None:
            return opinion
        if message.get("refusal") or reason == "content_filter":
            raise NoVerdict("it refuses to judge this")
        shown = " ".join(text.split())[-200:]
        raise NoVerdict(f"its answer ends in {shown!r}" if shown else "its answer is empty")

    def _with_hint(self, refusal: EndpointRefusal) -> EndpointRefusal:
        """A refusal; where the address may be the reason, it says what is usual."""
        base_url = self._config.base_url.rstrip("/")
        if refusal.status != 404 or base_url.endswith("/v1"):
            return refusal
        hint = f"base_url usually ends in /v1, as {base_url}/v1 does."
        return EndpointRefusal(f"{refusal}. {hint}", refusal.status, refusal.text)

    def _other_dialect(self, dialect: _Dialect, refusal: EndpointRefusal) -> _Dialect | None:
        """What to try after a refusal; None if another dialect would not help."""
        said = refusal.text.casefold()
        if dialect.max_tokens == "max_tokens" and "max_completion_tokens" in said:
            return replace(self._dialect, max_tokens="max_completion_tokens")
        is_about_schema = any(word in said for word in _NO_SCHEMA)
        if dialect.as_json and is_about_schema and self._config.answering.output == "auto":
            return replace(self._dialect, as_json=False)
        return None


def _rate(per_minute: float | None) -> RateLimit | None:
    return None if per_minute is None else RateLimit(per_minute)


def _complaint(data: Mapping[str, Any]) -> str | None:
    """What is wrong with an answer that came with status 200; some servers put errors there."""
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and isinstance(first.get("message"), dict):
        return None
    return "an answer without choices[0].message"


def _text(content: Json) -> str:
    """The text of a message, which may come in parts; lone surrogates are no text."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""
