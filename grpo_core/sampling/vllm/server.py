"""An engine behind HTTP, for a trainer in another process or on another machine.

    POST   /v1/session   Hello -> Welcome; the models must agree, and a new session ends the old one
    DELETE /v1/session   the client is done
    PUT    /v1/weights   frames of safetensors; nothing is sampled before all of them have come
    POST   /v1/sample    Order -> a Line for each completion as soon as it is finished
    POST   /v1/probe     Probe -> Scores

Every request has a bearer token, and all but the first the id of its session. A run that connects
takes the server over: the other one would sample from weights that are not its own, so it is told
and stops. All work is done by one thread, one request at a time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from grpo_core.errors import GrpoError
from grpo_core.sampling.vllm.frames import from_frames
from grpo_core.sampling.vllm.messages import (
    PROTOCOL,
    SESSION_HEADER,
    Drawn,
    Hello,
    HostedEngine,
    Line,
    Message,
    Order,
    Probe,
    Scores,
    Welcome,
)
from grpo_core.sampling.vllm.requests import (
    Guard,
    Oversized,
    Refusal,
    Upload,
    check_order,
    check_tokens,
    read_message,
)

_HEARTBEAT = 5.0  # seconds after which a client that waits is told that work goes on
_CLIENTS = 32  # connections at once; a run needs two
_TAKEN_OVER = "another run has connected to this server, and its weights are there now."

_END = object()
Result = TypeVar("Result")
_logger = logging.getLogger(__name__)


class EngineService:
    """The handlers, and what they share.

    Args:
        engine: used from one thread alone, from here on.
        facts: `model_facts` of its model.
    """

    def __init__(self, engine: HostedEngine, facts: Mapping[str, str | int | bool | None]) -> None:
        self._engine = engine
        self._facts = facts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._busy = asyncio.Lock()
        self._session = ""
        self._has_weights = False

    async def open_session(self, request: Request) -> Response:
        """Take a client on if it trains the model that is here."""
        hello = await read_message(request, Hello)
        if hello.protocol != PROTOCOL:
            raise Refusal(
                409,
                f"the server speaks protocol {PROTOCOL}, the client {hello.protocol}. Install the "
                "same version of grpo-core on both sides.",
            )
        differences = [
            f"{name} is {value} on the server, {hello.facts.get(name)} in the policy"
            for name, value in self._facts.items()
            if hello.facts.get(name) != value
        ]
        if differences:
            raise Refusal(409, f"the server has another model: {'; '.join(differences)}.")
        self._session, self._has_weights = secrets.token_hex(16), False
        return _answer(Welcome(session=self._session, max_length=self._engine.max_length))

    async def close_session(self, request: Request) -> Response:
        """Forget the client."""
        self._check_session(request)
        self._session, self._has_weights = "", False
        return Response(status_code=204)

    async def take_weights(self, request: Request) -> Response:
        """Load what the client sends, while it is sending."""
        session = self._check_session(request)
        async with self._busy:
            self._check_session(request)  # it may have waited for long
            self._has_weights = False
            # Of some layers the policy has more, or in another layout; frames have headers.
            upload = Upload(request, 2 * self._engine.weight_bytes + (64 << 20))
            await self._in_thread(self._engine.load, from_frames(upload.read))
            self._has_weights = self._session == session
        return Response(status_code=204)

    async def sample(self, request: Request) -> Response:
        """Stream completions as they finish."""
        session = self._check_session(request)
        order = await read_message(request, Order)
        check_order(order, self._engine)
        self._check_weights()
        lines = self._lines(request, order, session)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def probe(self, request: Request) -> Response:
        """Score sequences."""
        self._check_session(request)
        probe = await read_message(request, Probe)
        for sequence in probe.sequences:
            check_tokens(sequence, self._engine)
            if len(sequence) >= self._engine.max_length:  # the engine draws a token more
                raise Refusal(422, f"a sequence has {len(sequence)} tokens, which is too long.")
        async with self._busy:
            self._check_session(request)
            self._check_weights()
            rows = await self._in_thread(self._engine.score, probe.sequences)
        return _answer(Scores(logprobs=tuple(map(tuple, rows))))

    async def _lines(self, request: Request, order: Order, session: str) -> AsyncIterator[bytes]:
        """The lines of an answer. Its status is sent already, so failures are lines, too."""
        try:
            async with self._busy, aclosing(self._steps(request, order, session)) as steps:
                self._check_weights()  # it may have waited for long
                async for drawn in steps:
                    yield _line(Line(drawn=drawn)) if drawn else b"\n"
            yield _line(Line(done=True))
        except (GrpoError, Refusal) as error:
            yield _line(Line(error=str(error)))
        except Exception as error:
            _logger.exception("the engine failed")
            yield _line(Line(error=f"the engine failed: {type(error).__name__}: {error}"))

    async def _steps(
        self, request: Request, order: Order, session: str
    ) -> AsyncGenerator[Drawn | None, None]:
        """Completions, and now and then None; ends early when nobody waits for them any more."""
        steps = self._engine.draw(order)
        last = time.monotonic()
        try:
            while True:
                # One step at a time, so that whoever has gone is noticed between two of them.
                drawn: Any = await self._in_thread(next, steps, _END)
                if drawn is _END or await request.is_disconnected():
                    return
                if self._session != session:
                    raise Refusal(409, _TAKEN_OVER)
                if drawn is not None or time.monotonic() - last > _HEARTBEAT:
                    last = time.monotonic()
                    yield drawn
        finally:
            self._thread.submit(steps.close)  # before anything that is asked for later

    def _check_session(self, request: Request) -> str:
        given = request.headers.get(SESSION_HEADER, "")
        if not given or given != self._session:
            raise Refusal(409, _TAKEN_OVER if self._session else "this session has ended.")
        return given

    def _check_weights(self) -> None:
        if not self._has_weights:
            raise Refusal(409, "no weights have come yet, or not all of them.")

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def create_app(
    engine: HostedEngine, facts: Mapping[str, str | int | bool | None], token: str
) -> Guard:
    """The ASGI application that serves `engine`."""
    service = EngineService(engine, facts)
    routes = [
        Route("/v1/session", service.open_session, methods=["POST"]),
        Route("/v1/session", service.close_session, methods=["DELETE"]),
        Route("/v1/weights", service.take_weights, methods=["PUT"]),
        Route("/v1/sample", service.sample, methods=["POST"]),
        Route("/v1/probe", service.probe, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        Refusal: lambda _, error: _refuse(error.status, error),
        Oversized: lambda _, error: _refuse(413, error),
        GrpoError: lambda _, error: _refuse(400, error),
        ClientDisconnect: lambda _, error: _refuse(400, error),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


def create_server(app: Any) -> uvicorn.Server:
    """A web server for `app`; `run(sockets=[...])` returns at Ctrl-C, or when told to."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            limit_concurrency=_CLIENTS,
            timeout_graceful_shutdown=5,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 is any free one.

    Raises:
        OSError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    # Connections inherit it. asyncio sets it only on sockets of its own making, and without it a
    # small answer waits 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _refuse(status: int, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status)


def _answer(message: Message) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


def _line(line: Line) -> bytes:
    return line.model_dump_json(exclude_defaults=True).encode() + b"\n"
