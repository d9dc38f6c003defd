"""The `reward_model` verifier with a model that a server computes, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_core.errors import VerifierError
from grpo_core.types import Sample, Status
from grpo_core.validation import build
from grpo_verifiers.learned import endpoint
from grpo_verifiers.learned.reward_model import RewardModel
from tiny_scorers import in_sections, save_scorer, scorer_config, tiny_scorer

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
SAMPLES = [Sample("Hi", text, None) for text in ("yes", "no, because of this", "yes")]


class Server(ThreadingHTTPServer):
    """Speaks /classify as vLLM does; `answers` of a test come first.

    Attributes:
        requests: bodies and headers it got.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.model = model
        self.answers: list[Answer] = []
        self.requests: list[tuple[dict[str, Any], Any]] = []

    def classify(self, body: dict[str, Any]) -> tuple[int, Any]:
        with torch.no_grad():
            rows = [self.model(input_ids=torch.tensor([ids])).logits[0] for ids in body["input"]]
        if body["use_activation"]:
            rows = [row.sigmoid() for row in rows]
        data = [
            {"index": at, "label": None, "probs": row.tolist(), "num_classes": len(row)}
            for at, row in enumerate(rows)
        ]
        return 200, {"object": "list", "data": data[::-1]}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((body, self.headers))
        answer = self.server.answers.pop(0) if self.server.answers else self.server.classify
        status, reply = answer(body) if self.path == "/classify" else (404, "no such path")
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scorer(tmp_path_factory.mktemp("llama"), tiny_scorer(scorer_config()))


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE", 0.01)
    with Server(tiny_scorer(scorer_config())) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make(folder: Path, server: Server, **options: Any) -> RewardModel:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    return RewardModel(build(RewardModel.Config, in_sections(path=str(folder), url=url, **options)))


def test_served_scores_are_those_of_the_same_model_here(folder: Path, server: Server) -> None:
    here = RewardModel(RewardModel.Config(path=str(folder))).verify(SAMPLES)
    there = make(folder, server).verify(SAMPLES)
    for one, other in zip(here, there, strict=True):
        assert other.status is one.status
        assert other.score == pytest.approx(one.score, abs=1e-5)
        assert other.details["raw"] == pytest.approx(one.details["raw"], abs=1e-5)
    ((body, headers),) = server.requests
    assert len(body["input"]) == 2, "equal texts are sent once"
    assert "model" not in body and "Authorization" not in headers


def test_name_and_key_are_sent_and_never_shown(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"model": "rm", "api_key_env": "RM_KEY"}
    monkeypatch.delenv("RM_KEY", raising=False)
    with pytest.raises(VerifierError, match="RM_KEY is not set"):
        make(folder, server, **options).verify(SAMPLES)
    monkeypatch.setenv("RM_KEY", "s3cret")
    server.answers = [lambda body: (401, "who are you?")]
    verifier = make(folder, server, **options)
    with pytest.raises(VerifierError, match="401") as caught:
        verifier.verify(SAMPLES)
    assert "s3cret" not in str(caught.value)
    assert all(verdict.status.is_candidates for verdict in verifier.verify(SAMPLES))
    body, headers = server.requests[-1]
    assert (body["model"], headers["Authorization"]) == ("rm", "Bearer s3cret")


def test_a_busy_server_is_asked_again(folder: Path, server: Server) -> None:
    server.answers = [lambda body: (503, "loading"), lambda body: (429, "slow down")]
    verdicts = make(folder, server).verify(SAMPLES)
    assert all(verdict.status.is_candidates for verdict in verdicts)
    assert len(server.requests) == 3


def test_a_server_that_stays_busy_or_is_gone_gives_no_verdict(folder: Path, server: Server) -> None:
    server.answers = [lambda body: (503, "loading")] * 4
    with pytest.raises(VerifierError, match=r"4 attempts.*503"):
        make(folder, server).verify(SAMPLES)
    assert len(server.requests) == 4
    server.server_close()
    with pytest.raises(VerifierError, match="did not answer"):
        make(folder, server).verify(SAMPLES)


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        ((404, "no such model"), "404.*server.model"),
        ((200, "<html>"), "no JSON"),
        ((200, {"error": "x"}), "no list of classifications"),
        ((200, {"data": [{"index": 0, "probs": [1.0]}]}), "1 of 2 texts"),
        ((200, {"data": [{"index": 0, "probs": []}] * 2}), "2 of 2 texts"),
        ((200, {"data": [{"index": 0, "probs": ["high"]}] * 2}), "no list of classifications"),
    ],
)
def test_a_strange_reply_is_no_verdict(
    folder: Path, server: Server, reply: tuple[int, Any], what: str
) -> None:
    server.answers = [lambda body: reply]
    with pytest.raises(VerifierError, match=what):
        make(folder, server).verify(SAMPLES)


def test_nan_from_a_server_is_an_error(folder: Path, server: Server) -> None:
    rows = [{"index": at, "probs": [float("nan") if at else 0.3]} for at in range(2)]
    server.answers = [lambda body: (200, {"data": rows})]
    statuses = [verdict.status for verdict in make(folder, server).verify(SAMPLES)]
    assert statuses[1] is Status.ERROR
    assert statuses[0].is_candidates and statuses[2].is_candidates
