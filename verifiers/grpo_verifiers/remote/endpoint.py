"""Ask a JSON endpoint: retries with backoff, a bound on concurrency, and errors for people."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from grpo_core.errors import VerifierError
from grpo_core.types import Json
from grpo_verifiers.remote.address import is_local
from grpo_verifiers.remote.retries import backoff, is_passing, retry_after
from grpo_verifiers.remote.trace import Trace

_MAX_BYTES = 8 << 20  # of an answer; the rest is not read
_SHOWN = 300  # characters of an error's text


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently.

    Attributes:
        attempts: requests for one answer, the first included.
        timeout: seconds for one of them, from its start to the last byte.
        base, ceiling: seconds; see `backoff`.
    """

    attempts: int = 5
    timeout: float = 60.0
    base: float = 0.5
    ceiling: float = 30.0


class EndpointFailure(VerifierError):
    """No answer after all attempts; `timed_out` when the last one took too long."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class EndpointRefusal(EndpointFailure):
    """The server will not answer this request, now or later; `text` is its own explanation."""

    def __init__(self, message: str, status: int, text: str) -> None:
        super().__init__(message)
        self.status = status
        self.text = text


class Endpoint:
    """Lives on one event loop.

    Args:
        addresses: of servers that are as good as one another; a retry goes to the next one.
        policy: see `RetryPolicy`.
        key: sent as a bearer token, and blotted out wherever a server repeats it.
        concurrency: requests under way at most.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        policy: RetryPolicy,
        key: str = "",
        concurrency: int = 8,
    ) -> None:
        self._addresses = tuple(addresses)
        self._policy = policy
        self._key = key
        self._slots = asyncio.Semaphore(concurrency)
        self._closed_until = dict.fromkeys(self._addresses, 0.0)
        self._http = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=policy.timeout,
            limits=httpx2.Limits(max_connections=concurrency),
            # Loading certificates takes a while, and plain http has none to check.
            verify=any(address.startswith("https:") for address in self._addresses),
            follow_redirects=False,  # another host must not get the key
            trust_env=not all(map(is_local, self._addresses)),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self,
        body: Mapping[str, Json],
        trace: Trace,
        gate: Callable[[], Awaitable[None]] | None = None,
        complaint: Callable[[dict[str, Any]], str | None] = lambda data: None,
        first: int = 0,
    ) -> dict[str, Any]:
        """The JSON object that a server answers with.

        Args:
            body: sent as JSON.
            trace: gets the number of attempts and the last trouble.
            gate: awaited before each request; what it raises is raised.
            complaint: says what is wrong with an answer, which is then asked for again.
            first: index of the address to begin with.

        Raises:
            EndpointRefusal: if the server refuses the request.
            EndpointFailure: if no attempt brought an answer.
        """
        content = json.dumps(body).encode()
        failed = _PassingError("it was not asked")
        for attempt in range(1, self._policy.attempts + 1):
            address = self._addresses[(first + attempt - 1) % len(self._addresses)]
            try:
                async with self._slots:
                    await self._wait_for(address)
                    if gate is not None:
                        await gate()
                    trace.attempts += 1
                    data = await self._request(address, content)
                if (trouble := complaint(data)) is None:
                    return data
                raise _PassingError(trouble)
            except _PassingError as error:
                failed = error
                trace.timeouts += error.timed_out
                trace.trouble = f"{address}: {error}"
                closed_until = time.monotonic() + error.pause
                self._closed_until[address] = max(self._closed_until[address], closed_until)
            if attempt < self._policy.attempts:
                await asyncio.sleep(backoff(attempt, self._policy.base, self._policy.ceiling))
        raise EndpointFailure(
            f"no usable answer in {self._policy.attempts} attempts; the last one, {trace.trouble}",
            timed_out=failed.timed_out,
        )

    async def _wait_for(self, address: str) -> None:
        """A server that asked to be left alone is left alone by all."""
        while (wait := self._closed_until[address] - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _request(self, address: str, content: bytes) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._policy.timeout):
                response, text = await self._send(address, content)
        except (TimeoutError, httpx2.TimeoutException) as error:
            trouble = f"no answer within {self._policy.timeout:g} s"
            raise _PassingError(trouble, timed_out=True) from error
        except httpx2.RequestError as error:
            trouble = self._blot(f"{type(error).__name__}: {error}")
            raise _PassingError(trouble.rstrip(": ")) from None
        if response.is_success:
            data = _loads(text)
            if isinstance(data, dict):
                return data
            raise _PassingError("an answer that is no JSON object")
        said = _clip(self._blot(_explanation(text)))
        trouble = f"status {response.status_code}{': ' if said else ''}{said}"
        if is_passing(response.status_code):
            raise _PassingError(trouble, retry_after(response.headers.get("retry-after")))
        message = f"{address} refuses the request: {trouble}"
        raise EndpointRefusal(message, response.status_code, said)

    async def _send(self, address: str, content: bytes) -> tuple[httpx2.Response, bytes]:
        headers = {"content-type": "application/json"}
        async with self._http.stream("POST", address, content=content, headers=headers) as response:
            return response, await _read(response)

    def _blot(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


class _PassingError(Exception):
    """An answer that may be better next time; `pause` is how long the server asks to wait."""

    def __init__(self, message: str, pause: float = 0.0, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.pause = pause
        self.timed_out = timed_out


async def _read(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MAX_BYTES:
            raise _PassingError(f"an answer of more than {_MAX_BYTES} bytes")
    return b"".join(parts)


def _loads(text: bytes | str) -> Json:
    """The JSON value of a text; None where it is none, as half an answer."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _explanation(body: bytes) -> str:
    """What a server says about an error, on one line."""
    text = body.decode(errors="replace")
    data = _loads(text)
    for key in ("error", "message", "detail"):
        if isinstance(data, dict) and data.get(key):
            data = data[key]
    return " ".join((data if isinstance(data, str) else text).split())


def _clip(text: str) -> str:
    text = text.encode(errors="replace").decode()  # JSON may hold lone surrogates
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
