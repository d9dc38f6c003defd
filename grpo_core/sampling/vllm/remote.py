"""The sampling engine "vllm_server": that of a `grpo serve` elsewhere. vLLM is not needed here."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import httpx2
from pydantic import ValidationError
from torch import Tensor

from grpo_core.config import SamplingConfig
from grpo_core.errors import ConfigError, GrpoError, SamplingError
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.vllm.frames import to_frames
from grpo_core.sampling.vllm.messages import (
    PROTOCOL,
    SESSION_HEADER,
    Drawn,
    Hello,
    Line,
    Message,
    Order,
    Probe,
    Scores,
    Welcome,
    model_facts,
)
from grpo_core.sampling.vllm.sampler import EngineSampler
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE, client_token

# Seconds. A server at work says so every few seconds, however long a completion takes; loading
# the weights of a large model, and waiting for its turn, it does not.
_TIMEOUT = httpx2.Timeout(300.0, connect=10.0)
_ERROR_BYTES = 10_000  # of an error's text; the rest is not read

Expected = TypeVar("Expected", bound=Message)


class ServerSampler(EngineSampler):
    """Samples on a server; see `Sampler` and `ProbedSampler` in grpo_core.protocols."""

    @staticmethod
    def check_settings(settings: SamplingConfig) -> None:
        """Find what is wrong before anything is loaded.

        Raises:
            ConfigError: if the address is none, or there is no token.
        """
        server_address(settings)
        client_token()

    def __init__(self, context: SamplerContext) -> None:
        address = server_address(context.config)
        facts = model_facts(context.model.config, context.model.dtype)
        engine = RemoteEngine(address, client_token(), facts)
        try:
            super().__init__(context, engine)
        except BaseException:
            engine.close()
            raise


def server_address(settings: SamplingConfig) -> str:
    """sampling.server, checked.

    Raises:
        ConfigError: if it is not set, or no http address without a password.
    """
    example = "Set it to what 'grpo serve' printed, such as 'http://127.0.0.1:8000'."
    if settings.server is None:
        raise ConfigError(
            f"sampling.engine is '{settings.engine}', but sampling.server is not set. {example}"
        )
    try:
        url = httpx2.URL(settings.server)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"sampling.server is no address: {error}. {example}") from error
    if url.userinfo:
        raise ConfigError(
            f"sampling.server must not hold a password, which would be written to the run's "
            f"folder; the server's token comes in the variable {TOKEN_VARIABLE}. {example}"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"sampling.server is '{settings.server}', no http address. {example}")
    return settings.server


class RemoteEngine:
    """See `grpo_core.sampling.vllm.messages.Engine`; every failure is a SamplingError.

    Args:
        address: of the server, as in sampling.server.
        token: for it.
        facts: `model_facts` of the policy.

    Raises:
        ConfigError: if the server refuses the token or the model.
    """

    def __init__(self, address: str, token: str, facts: dict[str, str | int | bool | None]) -> None:
        self._address = address
        self._http = httpx2.Client(
            base_url=address,
            headers={"authorization": f"Bearer {token}"},
            timeout=_TIMEOUT,
            # A connection kept for a training step may be closed at the moment it is used.
            limits=httpx2.Limits(max_keepalive_connections=0),
            trust_env=False,  # no proxy between the two
        )
        hello = Hello(protocol=PROTOCOL, facts=facts)
        try:
            welcome = self._ask("/v1/session", hello, Welcome, refusal=ConfigError)
        except GrpoError:
            self._http.close()
            raise
        self._http.headers[SESSION_HEADER] = welcome.session
        self.max_length = welcome.max_length

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Send all weights; see `Engine`."""
        with self._answer("PUT", "/v1/weights", to_frames(weights)):
            pass

    def draw(self, order: Order) -> Generator[Drawn | None, None, None]:
        """Completions as they come in; see `Engine`."""
        awaited = {
            (at, index)
            for at, draws in enumerate(order.prompts)
            for index in range(len(draws.seeds))
        }
        with self._answer("POST", "/v1/sample", order.model_dump_json()) as response:
            for text in response.iter_lines():
                line = self._parse(text, Line) if text else Line()
                if line.error:
                    raise SamplingError(f"the sampling server {self._address}: {line.error}")
                if line.done:
                    break
                if line.drawn is not None:
                    self._check_drawn(line.drawn, awaited)
                    awaited.remove((line.drawn.prompt, line.drawn.index))
                yield line.drawn
        if awaited:
            raise SamplingError(
                f"the sampling server {self._address} stopped with {len(awaited)} completions "
                f"missing. {self._cure}"
            )

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first; see `Engine`."""
        probe = Probe(sequences=tuple(map(tuple, sequences)))
        rows = self._ask("/v1/probe", probe, Scores).logprobs
        if [len(row) for row in rows] != [len(sequence) - 1 for sequence in sequences]:
            raise self._strange("scores of other lengths than the sequences")
        return [list(row) for row in rows]

    def wake(self) -> bool:
        """Nothing to do: the server has a device of its own."""
        return False

    def rest(self) -> None:
        """Nothing to do: the server has a device of its own."""

    def close(self) -> None:
        """Leave the server to others. It may be gone already."""
        with suppress(GrpoError), self._answer("DELETE", "/v1/session", None):
            pass
        self._http.close()

    def _ask(
        self,
        path: str,
        message: Message,
        kind: type[Expected],
        refusal: type[GrpoError] = SamplingError,
    ) -> Expected:
        with self._answer("POST", path, message.model_dump_json(), refusal) as response:
            return self._parse(response.read(), kind)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        content: str | Iterator[bytes] | None,
        refusal: type[GrpoError] = SamplingError,
    ) -> Iterator[httpx2.Response]:
        try:
            with self._http.stream(method, path, content=content) as response:
                self._check_status(response, refusal)
                yield response
        except httpx2.TransportError as error:
            raise SamplingError(
                f"the sampling server {self._address} does not answer: {type(error).__name__}: "
                f"{error}. {self._cure}"
            ) from error

    def _check_status(self, response: httpx2.Response, refusal: type[GrpoError]) -> None:
        if response.is_success:
            return
        if response.status_code == 401:
            raise ConfigError(
                f"the sampling server {self._address} does not take the token in "
                f"{TOKEN_VARIABLE}. Set the variable to the token that 'grpo serve' wrote to the "
                "file it names."
            )
        text = next(response.iter_bytes(_ERROR_BYTES), b"")
        try:
            reason = json.loads(text)["error"]
        except (ValueError, KeyError, TypeError):
            raise self._strange(f"status {response.status_code}") from None
        raise refusal(f"the sampling server {self._address} refuses: {reason}")

    def _check_drawn(self, drawn: Drawn, awaited: set[tuple[int, int]]) -> None:
        if (drawn.prompt, drawn.index) not in awaited:
            raise self._strange("a completion nobody asked for")
        if len(drawn.token_ids) != len(drawn.logprobs):
            raise self._strange("a completion with other than one log-probability a token")

    def _parse(self, text: str | bytes, kind: type[Expected]) -> Expected:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise self._strange(f"what is no {kind.__name__.lower()}") from error

    def _strange(self, what: str) -> SamplingError:
        return SamplingError(
            f"{self._address} answered with {what}. Is it the address of a 'grpo serve' of the "
            "same version (sampling.server)?"
        )

    @property
    def _cure(self) -> str:
        return (
            "See what it printed last, start it again with 'grpo serve', and go on with "
            "'grpo train --resume'. Another address is set with sampling.server."
        )
