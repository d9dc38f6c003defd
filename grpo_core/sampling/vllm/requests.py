"""What a server expects of a request before any of it reaches the engine: token, size, and form."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from grpo_core.errors import SamplingError
from grpo_core.sampling.vllm.messages import HostedEngine, Message, Order

_MOST_BYTES = 64 << 20  # of a message; a step of a thousand long prompts has a tenth of that
_STALLED = 300.0  # seconds without a byte after which a hand-over is given up
_SHOWN = 500  # characters of a complaint about a message

Expected = TypeVar("Expected", bound=Message)


class Refusal(Exception):
    """A request that is answered with an HTTP status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Oversized(SamplingError):
    """More weights than the model has."""


class Guard:
    """Lets only requests with the token through; an ASGI application around another one."""

    def __init__(self, app: Any, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                answer = JSONResponse({"error": "the token is missing or wrong."}, 401)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def read_message(request: Request, kind: type[Expected]) -> Expected:
    """The body of a request as a message.

    Raises:
        Refusal: if it is too long, or something else.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refusal(413, f"a message may have {_MOST_BYTES} bytes; this one has more.")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        text = f"not a valid {kind.__name__.lower()}: {place}: {first['msg']}"
        raise Refusal(422, text[:_SHOWN]) from error


def check_order(order: Order, engine: HostedEngine) -> None:
    """Refuse what the engine has no tokens or no room for.

    Raises:
        Refusal: saying what.
    """
    for draws in order.prompts:
        length = len(draws.token_ids) + order.max_new_tokens
        if length > engine.max_length:
            raise Refusal(
                422,
                f"a prompt of {len(draws.token_ids)} tokens with {order.max_new_tokens} new ones "
                f"exceeds the {engine.max_length} there is room for.",
            )
        check_tokens(draws.token_ids, engine)
    check_tokens(order.eos, engine)


def check_tokens(token_ids: tuple[int, ...], engine: HostedEngine) -> None:
    """Refuse tokens that are not in the vocabulary.

    Raises:
        Refusal: naming the largest.
    """
    if token_ids and max(token_ids) >= engine.vocab_size:
        raise Refusal(422, f"token {max(token_ids)} is none of the {engine.vocab_size} there are.")


class Upload:
    """The body of a request, read from another thread, as many bytes at a time as it asks for."""

    def __init__(self, request: Request, most_bytes: int) -> None:
        self._chunks: AsyncIterator[bytes] = request.stream()
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._left = most_bytes

    def read(self, count: int) -> bytes:
        """The next `count` bytes. Not to be called from the event loop's thread.

        Raises:
            Oversized: if that is more than is allowed in all.
            SamplingError: if they do not come.
        """
        self._left -= count
        if self._left < 0:
            raise Oversized("more bytes of weights were announced than the server's model has.")
        future = asyncio.run_coroutine_threadsafe(self._next(count), self._loop)
        try:
            return future.result(_STALLED)
        except FutureTimeoutError as error:
            future.cancel()
            raise SamplingError("the client stopped sending weights half-way.") from error
        except (ClientDisconnect, StopAsyncIteration) as error:
            raise SamplingError("the client went away half-way through its weights.") from error

    async def _next(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await anext(self._chunks)
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
