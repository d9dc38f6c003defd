"""The sampling server over real HTTP, with a transformers model in place of vLLM: what goes wrong.

With vLLM itself: test_vllm_runs.py.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import torch

from grpo_core.errors import SamplingError
from grpo_core.sampling.vllm.messages import SESSION_HEADER, Draws, Order, model_facts
from grpo_core.sampling.vllm.remote import RemoteEngine, ServerSampler
from grpo_core.sampling.vllm.token import TOKEN_VARIABLE
from grpo_core.sampling.vllm.weights import checkpoint_weights
from grpo_core.types import Completion
from served_engine import PARAMS, PROMPTS, TOKEN, Served, context, served
from tiny_model import tiny_model


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as here:
        yield here


@pytest.fixture
def sampler(server: Served) -> Iterator[ServerSampler]:
    sampler = ServerSampler(context(server.address))
    yield sampler
    sampler.close()


def test_nothing_is_sampled_before_the_weights(server: Served) -> None:
    facts = model_facts(tiny_model().config, torch.float32)
    engine = RemoteEngine(server.address, TOKEN, facts)
    order = Order(
        prompts=(Draws(token_ids=(1,), seeds=(1,)),),
        eos=(0,),
        max_new_tokens=1,
        temperature=1,
        top_p=1,
        top_k=0,
        stop=(),
    )
    for work in (lambda: list(engine.draw(order)), lambda: engine.score([[1, 2]])):
        with pytest.raises(SamplingError, match="no weights have come yet"):
            work()

    def half() -> Iterator[Any]:
        yield "model.norm.weight", torch.ones(32)
        raise KeyboardInterrupt

    engine.load(checkpoint_weights(tiny_model()).items())
    assert len(list(filter(None, engine.draw(order)))) == 1
    with pytest.raises(KeyboardInterrupt):
        engine.load(half())
    with pytest.raises(SamplingError, match="or not all of them"):
        list(engine.draw(order))
    engine.close()


def test_weights_the_model_does_not_have(server: Served, sampler: ServerSampler) -> None:
    with pytest.raises(SamplingError, match="the model has no weight 'strange'"):
        sampler._engine.load([("strange", torch.zeros(3))])
    sampler.update_weights()
    sampler.sample(PROMPTS, 1, PARAMS)


def test_an_unreachable_server_is_named() -> None:
    with pytest.raises(SamplingError, match=r"http://127.0.0.1:9 does not answer.*grpo serve"):
        ServerSampler(context("http://127.0.0.1:9"))


def test_a_server_that_dies_while_it_samples() -> None:
    with served() as here:
        here.engine.pause = 0.01
        sampler = ServerSampler(context(here.address))
        with pytest.raises(SamplingError, match=r"does not answer|missing"):
            sampler.sample(PROMPTS, 50, PARAMS, lambda at, completion: here.stop.set())
        sampler.close()


def test_a_client_that_stops_leaves_a_free_server(server: Served, sampler: ServerSampler) -> None:
    def stop(at: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    before = server.engine.steps
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(PROMPTS, 1000, PARAMS, stop)
    gc.collect()
    sampler.sample(PROMPTS, 1, PARAMS)  # takes its turn after the one that is dropped
    assert server.engine.steps - before < 2000


@pytest.mark.parametrize("fault", [SamplingError("no room"), ValueError("odd")])
def test_a_failure_of_the_engine_reaches_the_client(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(server.engine, "fault", fault)
    with pytest.raises(SamplingError, match=f"{server.address}.*{fault}"):
        sampler.sample(PROMPTS, 1, PARAMS)


def test_a_client_that_waits_hears_that_work_goes_on(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpo_core.sampling.vllm.server._HEARTBEAT", 0.0)
    order = sampler._order(PROMPTS[:1], [[1, 2]], 1, PARAMS)
    signs = list(sampler._engine.draw(order))
    drawn = next(sign for sign in signs if sign is not None)
    assert signs.count(None) >= len(drawn.token_ids) - 1


def test_a_client_does_not_wait_for_ever(
    server: Served, sampler: ServerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.engine, "pause", 1.0)
    sampler._engine._http.timeout = httpx2.Timeout(0.2)  # type: ignore[attr-defined]
    with pytest.raises(SamplingError, match=r"does not answer: ReadTimeout"):
        sampler.sample(PROMPTS[:1], 1, PARAMS)


HOSTILE: list[tuple[str, str, Any, int]] = [
    ("POST", "sample", b"{", 422),
    ("POST", "sample", b"[" * 100_000, 422),
    ("POST", "sample", b"\xff\xfe", 422),
    ("POST", "sample", b"{}", 422),
    ("POST", "probe", b'{"sequences": [[1]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, -1]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, 100000]]}', 422),
    ("POST", "probe", b'{"sequences": [[1, 2]], "more": 1}', 422),
    ("POST", "probe", b'{"sequences": [[' + b"1," * 600 + b"1]]}", 422),
    ("POST", "session", b'{"protocol": "x", "facts": {}}', 422),
    ("PUT", "weights", b"", 400),
    ("PUT", "weights", b"short", 400),
    ("PUT", "weights", (100).to_bytes(8, "little") + b"x" * 100, 400),
    ("PUT", "weights", (1 << 40).to_bytes(8, "little"), 413),
    ("PUT", "weights", b"\xff" * 8, 413),
    ("GET", "sample", None, 405),
    ("POST", "nothing", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), HOSTILE)
def test_hostile_requests_are_refused(
    server: Served, sampler: ServerSampler, method: str, path: str, body: Any, status: int
) -> None:
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    answer = httpx2.request(
        method, f"{server.address}/v1/{path}", content=body, headers=headers, timeout=30
    )
    assert answer.status_code == status
    sampler.update_weights()
    sampler.sample(PROMPTS, 1, PARAMS)


@pytest.mark.parametrize(
    "change",
    [
        {"eos": (1000,)},
        {"max_new_tokens": 600},
        {"prompts": ({"token_ids": (1000,), "seeds": (1,)},)},
        {"prompts": ({"token_ids": (), "seeds": (1,)},)},
        {"prompts": ({"token_ids": (1,), "seeds": (-1,)},)},
        {"temperature": -1.0},
        {"top_p": 2.0},
        {"stop": ("",)},
    ],
)
def test_orders_that_cannot_be_carried_out(
    server: Served, sampler: ServerSampler, change: dict[str, Any]
) -> None:
    order = {
        "prompts": ({"token_ids": (1,), "seeds": (1,)},),
        "eos": (0,),
        "max_new_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "stop": (),
    }
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    url = f"{server.address}/v1/sample"
    assert httpx2.post(url, json=order, headers=headers).status_code == 200
    assert httpx2.post(url, json=order | change, headers=headers).status_code == 422


def test_a_message_without_end_is_cut_off(server: Served, sampler: ServerSampler) -> None:
    session = sampler._engine._http.headers[SESSION_HEADER]
    headers = {"authorization": f"Bearer {TOKEN}", SESSION_HEADER: session}
    piece = b" " * (1 << 20)
    try:
        answer = httpx2.post(
            f"{server.address}/v1/sample", content=(piece for _ in range(80)), headers=headers
        )
        assert answer.status_code == 413
    except httpx2.TransportError:
        pass  # it hung up before all was said
    sampler.sample(PROMPTS, 1, PARAMS)


def test_something_else_at_the_address() -> None:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            with pytest.raises(SamplingError, match="Is it the address of a 'grpo serve'"):
                ServerSampler(context(f"http://127.0.0.1:{other.server_port}"))
        finally:
            other.shutdown()
            thread.join()
