"""OpenRLHF's reward servers: `POST {query, prompts, labels}`, answered by {rewards, ...}.

See OpenRLHF's `serve_rm` and `--remote_rm_url http://host:5000/get_reward`. Several addresses share
a batch; a part whose server fails goes to the next one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from grpo_core.types import Sample, Verdict
from grpo_verifiers.adapters.openrlhf import OpenRlhfOptions, as_queries, read_rewards
from grpo_verifiers.remote.address import check_address, read_key
from grpo_verifiers.remote.background import BackgroundLoop
from grpo_verifiers.remote.trace import Trace

if TYPE_CHECKING:
    from grpo_verifiers.remote.endpoint import Endpoint

_GRACE = 15.0  # seconds between our own deadline and the kill
Address = Annotated[str, AfterValidator(lambda url: check_address(url, "urls"))]


class OpenRlhfServerConfig(OpenRlhfOptions):
    """The servers, and how their rewards are read."""

    urls: tuple[Address, ...] = Field(
        min_length=1, description="Such as ['http://127.0.0.1:5000/get_reward']."
    )
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the servers' key."
    )
    attempts: int = Field(default=5, ge=1, le=20, description="Requests for one answer.")
    timeout: float = Field(default=180.0, gt=0, description="Seconds for one request.")


class OpenRlhfServer:
    """Reward servers that speak OpenRLHF's `/get_reward`.

    Raises:
        ConfigError: if the key's variable is not set.
    """

    version = "1.0"
    Config = OpenRlhfServerConfig

    def __init__(self, config: OpenRlhfServerConfig) -> None:
        self.config = config
        self.placement = config.placement
        self.batch_size = config.batch_size
        self._loop = BackgroundLoop()
        self._endpoint: tuple[int, Endpoint] | None = None
        read_key(config.api_key_env)  # not kept: an instance may be printed or pickled

    @property
    def deadline(self) -> float:
        """Seconds for one call, all attempts and the waiting between them included."""
        return self.config.attempts * (self.config.timeout + 45.0) + _GRACE

    def preload(self) -> None:
        """Import the HTTP client, once, before processes are forked."""
        import grpo_verifiers.remote.endpoint  # noqa: F401 - httpx2 takes a while

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; timeout or error where a server fails.

        Raises:
            VerifierError: if a server answers with something else than rewards.
        """
        return self._loop.run(self._verify(samples))

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._loop.close()
        self._endpoint = None

    async def _verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        endpoint = self._open()
        size = -(-len(samples) // len(self.config.urls))
        parts = [samples[at : at + size] for at in range(0, len(samples), size)]
        judged = await asyncio.gather(
            *(self._judge(endpoint, part, first) for first, part in enumerate(parts))
        )
        return [verdict for part in judged for verdict in part]

    async def _judge(
        self, endpoint: Endpoint, samples: Sequence[Sample], first: int
    ) -> list[Verdict]:
        from grpo_verifiers.remote.endpoint import EndpointFailure

        queries, prompts, labels = as_queries(samples, self.config)
        body = {
            "query": queries,
            "prompts": prompts,
            "labels": labels,
            **self.config.arguments,
        }
        trace = Trace()
        try:
            answer = await endpoint.ask(body, trace, first=first)
        except EndpointFailure as error:
            failed = Verdict.timeout if error.timed_out else Verdict.error
            reason = f"the reward server: {error}"
            return [failed(reason, {"attempts": trace.attempts})] * len(samples)
        return read_rewards(answer, len(samples), self.config, "the reward server")

    def _open(self) -> Endpoint:
        from grpo_verifiers.remote.endpoint import Endpoint, RetryPolicy

        if self._endpoint is None or self._endpoint[0] != os.getpid():
            endpoint = Endpoint(
                self.config.urls,
                RetryPolicy(self.config.attempts, self.config.timeout),
                read_key(self.config.api_key_env),
                2 * len(self.config.urls),
            )
            self._loop.resources.push_async_callback(endpoint.close)
            self._endpoint = os.getpid(), endpoint
        return self._endpoint[1]
