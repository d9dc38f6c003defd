"""The judge against a server with faults: every failure has a name, and none becomes a score."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from grpo_core.errors import VerifierError
from grpo_core.types import Sample, Status, Verdict
from grpo_verifiers.judge.verifier import JudgeVerifier
from grpo_verifiers.remote import endpoint
from judge_server import JudgeServer, completion, judge_server

KEY = "sk-secret-0123456789"
SAMPLE = Sample("What is 36 + 36?", "Adding them gives seventy-two.", "72")


@pytest.fixture(scope="module")
def running() -> Iterator[JudgeServer]:
    with judge_server() as here:
        yield here


@pytest.fixture
def server(running: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> JudgeServer:
    monkeypatch.setenv("JUDGE_KEY_FOR_TESTS", KEY)
    monkeypatch.setattr(endpoint, "backoff", lambda attempt, base, ceiling: 0.001 * attempt)
    running.reset()
    return running


@pytest.fixture
def judges(server: JudgeServer) -> Iterator[Any]:
    made: list[JudgeVerifier] = []

    def make(**options: Any) -> JudgeVerifier:
        options = {
            "base_url": f"{server.address}/v1",
            "model": "tester",
            "api_key_env": "JUDGE_KEY_FOR_TESTS",
            **options,
        }
        made.append(JudgeVerifier(JudgeVerifier.Config(**options)))
        return made[-1]

    yield make
    for judge in made:
        judge.close()


def answers(count: int) -> list[Sample]:
    return [Sample("Q?", f"My answer is number {n}.", "R") for n in range(count)]


def one(judge: JudgeVerifier) -> Verdict:
    (verdict,) = judge.verify([SAMPLE])
    return verdict


def refusal(status: int, text: str = "no", **headers: str) -> Response:
    return JSONResponse({"error": {"message": text, "type": "x"}}, status, headers=headers)


PASSING = [
    refusal(429),
    refusal(500),
    refusal(503, "overloaded"),
    refusal(408),
    Response("<html>Bad gateway</html>", 502),
    Response('{"choices": [{"mess', media_type="application/json"),
    Response(b"\xff\xfe\x00", media_type="application/json"),
    Response("[" * 100_000, media_type="application/json"),
    JSONResponse({"error": {"message": "upstream failed", "code": 502}}),
    JSONResponse({"choices": []}),
    JSONResponse([1, 2]),
]


@pytest.mark.parametrize("fault", PASSING, ids=range(len(PASSING)))
def test_passing_faults_are_tried_again(server: JudgeServer, judges: Any, fault: Response) -> None:
    server.faults = [fault, fault]
    verdict = one(judges())
    assert verdict.is_correct
    assert verdict.details["attempts"] == 3 == len(server.bodies)
    assert verdict.details["usage"]["calls"] == 3
    server.faults = [fault] * 3
    verdict = one(judges(limits={"attempts": 3}))
    assert verdict.status is Status.ERROR
    assert "no usable answer in 3 attempts" in verdict.reason
    assert verdict.details["attempts"] == 3


@pytest.mark.parametrize(
    "fault",
    [
        refusal(400, "context length exceeded"),
        refusal(401, f"Incorrect API key provided: {KEY}."),
        refusal(404, "no such model"),
        refusal(422, "bad request"),
        RedirectResponse("http://127.0.0.1:1/elsewhere"),
    ],
    ids=lambda fault: str(fault.status_code),
)
def test_lasting_faults_are_not(server: JudgeServer, judges: Any, fault: Response) -> None:
    server.faults = [fault]
    verdict = one(judges())
    assert verdict.status is Status.ERROR and verdict.score is None
    assert str(fault.status_code) in verdict.reason and len(server.bodies) == 1
    assert one(judges()).is_correct  # nothing of it was cached


def test_an_address_without_v1_is_hinted_at(server: JudgeServer, judges: Any) -> None:
    server.faults = [refusal(404, "no such model")]
    for base_url, is_hinted in ((f"{server.address}/v1", False), (server.address, True)):
        verdict = one(judges(base_url=base_url))
        assert verdict.status is Status.ERROR and "404" in verdict.reason
        assert ("base_url usually ends in /v1" in verdict.reason) == is_hinted, verdict.reason


def test_keys_are_blotted_out(
    server: JudgeServer, judges: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = [f"bad key {KEY}", "x" * 295 + KEY, json.dumps({"detail": KEY})]
    server.faults = [refusal(401, text) for text in texts] + [refusal(500, KEY)]
    judge = judges(cache={"path": str(tmp_path / "c.db")}, limits={"attempts": 1})
    verdicts = [one(judge) for _ in range(4)]
    shown = f"{verdicts} {judge!r} {vars(judge)} {caplog.text}"
    assert "***" in shown
    for size in (len(KEY), 5):
        assert KEY[:size] not in shown
    assert KEY.encode() not in (tmp_path / "c.db").read_bytes()


def test_retry_after_is_honoured_by_all(server: JudgeServer, judges: Any) -> None:
    times: list[float] = []

    def reply(body: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        if len(times) == 1:
            return refusal(429, "later", **{"retry-after": "0.6"})
        return '{"verdict": "CORRECT"}'

    server.reply = reply
    verdicts = judges(limits={"concurrency": 1}).verify(answers(3))
    assert all(verdict.is_correct for verdict in verdicts)
    assert times[1] - times[0] >= 0.6  # not only by the one that was told


def test_another_fault_does_not_end_the_wait(server: JudgeServer, judges: Any) -> None:
    times: list[float] = []

    async def later() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.1)
        yield b"{}"

    def reply(body: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        if len(times) == 1:
            return refusal(429, "later", **{"retry-after": "0.6"})
        return StreamingResponse(later(), 500) if len(times) == 2 else '{"verdict": "CORRECT"}'

    server.reply = reply
    verdicts = judges(limits={"concurrency": 2}).verify(answers(2))
    assert all(verdict.is_correct for verdict in verdicts)
    assert min(times[2:]) - times[0] >= 0.6


def test_a_server_that_hangs_is_a_timeout(server: JudgeServer, judges: Any) -> None:
    server.faults = ["hang", "hang"]
    verdict = one(judges(limits={"timeout": 0.2, "attempts": 2}))
    assert verdict.status is Status.TIMEOUT
    assert "no answer within 0.2 s" in verdict.reason and verdict.details["attempts"] == 2
    server.faults = ["hang"]
    assert one(judges(limits={"timeout": 0.3})).is_correct


def test_a_server_that_drips_is_a_timeout(server: JudgeServer, judges: Any) -> None:
    async def drops() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    server.faults = [StreamingResponse(drops(), media_type="application/json")]
    verdict = one(judges(limits={"timeout": 0.4, "attempts": 1}))
    assert verdict.status is Status.TIMEOUT


def test_what_is_judged_before_the_deadline_is_kept(server: JudgeServer, judges: Any) -> None:
    server.faults = [None, "hang", refusal(503, "full"), "hang", "hang"]
    limits = {"timeout": 50, "deadline": 2.0, "concurrency": 1}
    verdicts = judges(limits=limits).verify(answers(4))
    assert [verdict.status for verdict in verdicts] == ["correct", "timeout", "timeout", "timeout"]
    assert "limits.deadline = 2 s" in verdicts[1].reason


def test_a_dead_endpoint_is_an_error(judges: Any) -> None:
    verdict = one(judges(base_url="http://127.0.0.1:9/v1", limits={"attempts": 2}))
    assert verdict.status is Status.ERROR
    assert "http://127.0.0.1:9/v1/chat/completions" in verdict.reason
    assert "ConnectError" in verdict.reason


def test_an_endless_answer_is_not_read_to_its_end(
    server: JudgeServer, judges: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "_MAX_BYTES", 1000)
    server.faults = [JSONResponse(completion("x" * 5000))]
    verdict = one(judges(limits={"attempts": 1}))
    assert verdict.status is Status.ERROR and "more than 1000 bytes" in verdict.reason


# ---- dialects -----------------------------------------------------------------------------------


def test_a_server_without_structured_output_is_asked_in_words(
    server: JudgeServer, judges: Any
) -> None:
    def reply(body: dict[str, Any]) -> Any:
        if "response_format" in body:
            return refusal(400, "response_format is not supported by this model")
        return "Verdict: CORRECT"

    server.reply = reply
    judge = judges()
    assert all(verdict.is_correct for verdict in judge.verify(answers(3)))
    seen = len(server.bodies)
    assert seen <= 6
    assert one(judge).is_correct and len(server.bodies) == seen + 1  # it is remembered
    verdict = one(judges(answering={"output": "json_schema"}))
    assert verdict.status is Status.ERROR and "not supported" in verdict.reason


def test_a_server_with_the_newer_name_for_the_limit(server: JudgeServer, judges: Any) -> None:
    def reply(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            return refusal(400, "Use 'max_completion_tokens' instead of 'max_tokens'.")
        assert body["max_completion_tokens"] == 77
        return '{"verdict": "CORRECT"}'

    server.reply = reply
    assert one(judges(answering={"max_tokens": 77, "temperature": None})).is_correct
    assert "temperature" not in server.bodies[-1]


# ---- budget and rates ---------------------------------------------------------------------------


@pytest.mark.parametrize(("when_spent", "status"), [("error", "error"), ("abstain", "abstain")])
def test_a_budget_of_calls(server: JudgeServer, judges: Any, when_spent: str, status: str) -> None:
    server.faults = [refusal(500)]
    limits = {"max_calls": 4, "when_spent": when_spent}
    verdicts = judges(limits=limits).verify(answers(6))
    assert sorted(verdict.status for verdict in verdicts) == sorted(["correct"] * 3 + [status] * 3)
    assert len(server.bodies) == 4
    assert any("limits.max_calls = 4" in verdict.reason for verdict in verdicts)


def test_a_budget_of_money(server: JudgeServer, judges: Any) -> None:
    limits = {"max_cost": 0.05, "input_price": 10.0, "output_price": 100.0, "concurrency": 2}
    verdicts = judges(limits=limits, answering={"max_tokens": 100}).verify(answers(20))
    spent = sum(verdict.details["usage"]["cost"] for verdict in verdicts)
    correct = [verdict for verdict in verdicts if verdict.is_correct]
    assert {verdict.status for verdict in verdicts} == {Status.CORRECT, Status.ERROR}
    assert spent == pytest.approx(0.007 * len(correct)) and 0.03 <= spent <= 0.05


def test_late_answers_are_counted_as_paid(server: JudgeServer, judges: Any) -> None:
    server.faults = ["hang"]
    limits = {"input_price": 0.0, "output_price": 1e4, "timeout": 1.0, "attempts": 2}
    verdict = one(judges(limits=limits, answering={"max_tokens": 100}))
    assert verdict.details["usage"]["cost"] == pytest.approx(1.0 + 0.5)


def test_rates_hold_requests_back(server: JudgeServer, judges: Any) -> None:
    limits = {"requests_per_minute": 3, "deadline": 1.0}
    verdicts = judges(limits=limits).verify(answers(5))
    assert {verdict.status for verdict in verdicts} == {Status.CORRECT, Status.TIMEOUT}
    assert len(server.bodies) == 3

    # Estimates are some 1,500 tokens a request; an answer says that it took 250.
    limits = {"tokens_per_minute": 4000, "deadline": 1.0}
    verdicts = judges(limits=limits).verify(answers(20))
    served = sum(verdict.is_correct for verdict in verdicts)
    assert 3 <= served <= 16


def test_a_cache_that_cannot_be_used_is_an_error_of_the_verifier(
    judges: Any, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("my notes, " * 200)
    judge = judges(cache={"path": str(tmp_path / "notes.txt")})
    with pytest.raises(VerifierError, match=r"cache\.path"):
        judge.verify([SAMPLE])
