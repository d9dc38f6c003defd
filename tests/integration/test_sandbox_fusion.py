"""The SandboxFusion backend, against a local server that speaks the protocol.

The server runs programs in a sandbox of ours, so what comes back is what programs really did.
"""

from __future__ import annotations

import base64
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from grpo_verifiers.sandbox import (
    CommandJob,
    GuestJob,
    Limits,
    Sandbox,
    SandboxUnavailable,
    ScriptJob,
    Status,
    open_sandbox,
    sandbox_fusion,
)
from sandbox_world import open_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")


class Server(ThreadingHTTPServer):
    """Speaks the protocol; can be told to fail first."""

    daemon_threads = True

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.sandbox = sandbox
        self.failures: list[Any] = []  # what to answer before anything works
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        failure = self.server.failures.pop(0) if self.server.failures else None
        if self.path != "/run_code":
            self._answer(404, {"detail": "Not Found"})
        elif isinstance(failure, int):
            self._answer(failure, {"detail": "busy"})
        elif failure == "hang up":
            self.connection.close()
        else:
            self._answer(200, failure if failure is not None else self._run(body))

    def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        limits = Limits(wall_seconds=body["run_timeout"], memory_mb=body["memory_limit_MB"])
        files = {name: base64.b64decode(text) for name, text in body["files"].items()}
        job = ScriptJob(
            source=body["code"], stdin=body["stdin"].encode(), files=files, limits=limits,
            fetch=tuple(body["fetch_files"]),
        )  # fmt: skip
        reply = self.server.sandbox.run(job)
        over = reply.status is Status.TIMEOUT
        code = reply.exit_code if reply.signal is None else -reply.signal
        result = {
            "status": "TimeLimitExceeded" if over else "Finished",
            "execution_time": reply.seconds,
            "return_code": None if over else code,
            "stdout": reply.stdout.decode(),
            "stderr": reply.stderr.decode(),
        }
        return {
            "status": "Success" if code == 0 else "Failed",
            "message": "",
            "compile_result": None,
            "run_result": result,
            "executor_pod_name": None,
            "files": {name: base64.b64encode(text).decode() for name, text in reply.files.items()},
        }

    def _answer(self, code: int, body: Any) -> None:
        text = json.dumps(body).encode() if not isinstance(body, str) else body.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def inner() -> Iterator[Sandbox]:
    sandbox = open_way("all layers")
    yield sandbox
    sandbox.close()


@pytest.fixture
def server(inner: Sandbox) -> Iterator[Server]:
    made = Server(inner)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def remote(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    monkeypatch.setattr(sandbox_fusion, "_BACKOFF", 0.001)
    options = {"url": server.url + "/", "retries": 2, "headers": {"X-Key": "k"}}
    opened = open_sandbox(backend="sandbox_fusion", options=options)
    yield opened
    opened.close()


def test_a_program_runs_there(remote: Sandbox, server: Server) -> None:
    source = "print(input(), open('a').read()); open('out', 'w').write('made')"
    job = ScriptJob(source=source, stdin="grüße\n".encode(), files={"a": b"A"}, fetch=("out", "no"))
    reply = remote.run(job)
    assert (reply.status, reply.exit_code, reply.stdout) == (
        Status.FINISHED,
        0,
        "grüße A\n".encode(),
    )
    assert reply.files == {"out": b"made"} and reply.seconds > 0
    assert server.headers[-1]["X-Key"] == "k" and server.requests[-1]["language"] == "python"
    [layer] = remote.layers
    assert layer.used and not layer.proved and server.url in layer.found


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("raise SystemExit(3)", Status.FINISHED, 3),
        ("1 / 0", Status.FINISHED, 1),
        ("while True: pass", Status.TIMEOUT, None),
        ("import os; os.abort()", Status.KILLED, None),
        ("print('x' * 2000)", Status.OUTPUT, None),
    ],
)
def test_how_programs_end(remote: Sandbox, source: str, status: Status, code: int | None) -> None:
    limits = Limits(wall_seconds=0.5, output_bytes=1000)
    reply = remote.run(ScriptJob(source=source, limits=limits))
    assert (reply.status, reply.exit_code) == (status, code)


SANDBOX_ERROR = {"status": "SandboxError", "message": "no pod", "run_result": None}
BROKEN = {"status": "Failed", "message": "", "run_result": {"status": "Error"}}


@pytest.mark.parametrize(
    "failure", [500, 429, 404, "hang up", SANDBOX_ERROR, BROKEN, [], {"status": 5}, "no JSON"]
)
def test_a_failure_of_the_server_is_tried_again_and_is_never_a_verdict(
    remote: Sandbox, server: Server, failure: Any
) -> None:
    server.failures = [failure, failure]
    reply = remote.run(ScriptJob(source="print(1)"))
    assert (reply.status, reply.stdout, len(server.requests)) == (Status.FINISHED, b"1\n", 3)
    server.failures = [failure] * 3
    reply = remote.run(ScriptJob(source="print(1)"))
    assert reply.status is Status.ERROR and reply.exit_code is None
    assert server.url in reply.detail and "3 times" in reply.detail


def test_a_server_whose_pipes_are_full_has_not_timed_out(remote: Sandbox, server: Server) -> None:
    result = {"status": "TimeLimitExceeded", "return_code": None, "stdout": "x" * 196_608}
    server.failures = [{"status": "Failed", "message": "", "run_result": result}]
    assert remote.run(ScriptJob(source="")).status is Status.OUTPUT


def test_what_the_protocol_cannot_do_is_refused(remote: Sandbox, server: Server) -> None:
    with pytest.raises(SandboxUnavailable, match="only scripts"):
        remote.run(CommandJob(argv=("true",)))
    with pytest.raises(SandboxUnavailable, match="cannot talk"):
        remote.start(GuestJob(guest="x"))
    with pytest.raises(SandboxUnavailable, match="cannot be measured"):
        open_sandbox("ns", "sandbox_fusion", options={"url": server.url})
    reply = remote.run(ScriptJob(source="", stdin=b"\xff"))
    assert reply.status is Status.ERROR and "text" in reply.detail


def test_a_server_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_fusion, "_BACKOFF", 0.001)
    gone = open_sandbox(
        backend="sandbox_fusion", options={"url": "http://127.0.0.1:9", "retries": 1}
    )
    assert gone.run(ScriptJob(source="")).status is Status.ERROR
    with pytest.raises(SandboxUnavailable, match=r"127\.0\.0\.1:9 does not run programs"):
        assert gone.layers
    gone.close()
