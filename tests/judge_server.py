"""A real HTTP server that speaks the chat completions protocol, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from grpo_core.sampling.vllm.server import create_server, listen

Reply = Callable[[dict[str, Any]], Any]  # from a request's body to text, a message, or a Response


@dataclass
class JudgeServer:
    """What a test sets and what it looks at.

    Attributes:
        reply: answers a request; a text is wrapped as a chat completion.
        faults: taken first, one a request; None is a sound answer, "hang" none.
        bodies, headers: of the requests so far.
        busiest: most requests that were under way at once.
    """

    address: str = ""
    reply: Reply = lambda body: '{"verdict": "CORRECT"}'
    faults: list[Response | str | None] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    pause: float = 0.0
    busiest: int = 0
    _busy: int = 0

    def reset(self) -> None:
        """As new, for the next test."""
        fresh = JudgeServer(self.address)
        for name in ("reply", "faults", "bodies", "headers", "pause", "busiest"):
            setattr(self, name, getattr(fresh, name))

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]

    async def answer(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            await asyncio.sleep(self.pause)
            fault = self.faults.pop(0) if self.faults else None
            if fault == "hang":
                while not await request.is_disconnected():
                    await asyncio.sleep(0.05)
            if isinstance(fault, Response):
                return fault
            said = self.reply(body)
            return said if isinstance(said, Response) else JSONResponse(completion(said))
        finally:
            self._busy -= 1


def completion(said: str | dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion around a text, or around a whole message."""
    message = {"role": "assistant", "content": said} if isinstance(said, str) else said
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 200, "completion_tokens": 50, "total_tokens": 250},
    }


@contextmanager
def judge_server(path: str = "/v1/chat/completions") -> Iterator[JudgeServer]:
    """Over loopback; ends with the context."""
    here = JudgeServer()
    app = Starlette(routes=[Route(path, here.answer, methods=["POST"])])
    with listen("127.0.0.1", 0) as listening:
        # asyncio sets it on sockets of its own making only; without it each answer takes 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        here.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = create_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield here
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
