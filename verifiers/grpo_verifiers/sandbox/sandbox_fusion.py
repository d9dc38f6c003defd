"""The backend "sandbox_fusion": programs run by a server that speaks SandboxFusion's protocol.

`POST /run_code` with {code, language, stdin, run_timeout, memory_limit_MB, files, fetch_files},
files in base64; the answer has {status, message, run_result: {status, return_code, stdout, stderr,
execution_time}, files}. A failure of the server is tried again and then a `Status.ERROR`; it never
says anything about the program. How well the server isolates cannot be measured from here.
"""

from __future__ import annotations

import base64
import binascii
import threading
import time
from typing import Any

import httpx2
from pydantic import BaseModel, Field, ValidationError

from grpo_core.errors import ConfigError
from grpo_verifiers.sandbox.api import (
    Guest,
    GuestJob,
    Job,
    Layer,
    Level,
    Limits,
    Reply,
    Sandbox,
    SandboxUnavailable,
    ScriptJob,
    Status,
)
from grpo_verifiers.sandbox.opening import Request

# SandboxFusion reads its pipes only after the program has ended, so one that has filled them
# (64 KB each in the kernel, and about 190 KB in all) seems to run for ever.
_FULL_PIPES = 100_000
_BACKOFF = 0.5  # seconds before the second try; doubled for each further one


class FusionOptions(BaseModel, frozen=True, extra="forbid"):
    """Options of the backend.

    Attributes:
        url: of the server, such as "http://localhost:8080".
        headers: sent with every request.
        retries: further tries after a failure of the server.
        queue_seconds: how long a request may wait at the server, besides the program's own time.
        concurrency: requests at once.
    """

    url: str
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    retries: int = Field(3, ge=0)
    queue_seconds: float = Field(30.0, gt=0)
    concurrency: int = Field(16, ge=1)


class _RunResult(BaseModel):
    status: str
    return_code: int | None = None
    stdout: str | None = ""
    stderr: str | None = ""
    execution_time: float | None = 0.0


class _Answer(BaseModel):
    status: str
    message: str | None = ""
    run_result: _RunResult | None = None
    files: dict[str, str | None] | None = None


class _ServerFailed(Exception):
    """Worth another try."""


def sandbox_fusion(request: Request) -> Sandbox:
    """A server as a sandbox.

    Raises:
        ConfigError: for an unknown option, or without a url.
        SandboxUnavailable: if guests or packages are asked for, or isolation that nobody can
            measure from here.
    """
    try:
        options = FusionOptions(**request.options)
    except ValidationError as error:
        raise ConfigError(f"options of the sandbox backend 'sandbox_fusion': {error}") from error
    if request.level in (Level.NS, Level.CGROUP):
        raise SandboxUnavailable(
            f"level '{request.level}' cannot be measured on a server elsewhere. Use backend = "
            "'zygote', or level = 'os' and a server that you trust to isolate."
        )
    return FusionSandbox(options)


class FusionSandbox:
    """Runs scripts on a server."""

    name = "sandbox_fusion"
    job_types: tuple[type[Job], ...] = (ScriptJob,)

    def __init__(self, options: FusionOptions) -> None:
        self._options = options
        self._slots = threading.BoundedSemaphore(options.concurrency)
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._layers: tuple[Layer, ...] = ()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """That there is a server, which answers.

        Raises:
            SandboxUnavailable: if it does not.
        """
        if not self._layers:
            reply = self.run(ScriptJob(source="print(6 * 7)", limits=Limits(wall_seconds=10)))
            if reply.status is not Status.FINISHED or reply.stdout.strip() != b"42":
                raise SandboxUnavailable(
                    f"the server {self._options.url} does not run programs: "
                    f"{reply.detail or reply.stderr[-200:]!r}. Is it SandboxFusion, and running?"
                )
            found = f"runs on {self._options.url}; how it isolates is that server's affair"
            self._layers = (Layer("server", True, False, found),)
        return self._layers

    def run(self, job: Job) -> Reply:
        """Run a script; several tries, if the server fails.

        Raises:
            SandboxUnavailable: for other kinds of job.
        """
        if not isinstance(job, ScriptJob):
            raise SandboxUnavailable(
                f"the sandbox backend 'sandbox_fusion' runs no {type(job).__name__}, only scripts. "
                "Use backend = 'zygote' or 'bubblewrap'."
            )
        try:
            body = _encode(job)
        except UnicodeDecodeError as error:
            return Reply(Status.ERROR, detail=f"the protocol only knows text: {error}")
        failure = ""
        for attempt in range(self._options.retries + 1):
            if attempt:
                time.sleep(_BACKOFF * 2 ** (attempt - 1))
            try:
                with self._slots:
                    return _decode(self._post(body, job.limits), job.limits)
            except _ServerFailed as error:
                failure = str(error)
        return Reply(
            Status.ERROR,
            detail=f"{self._options.url}: {failure} (tried {self._options.retries + 1} times)",
        )

    def start(self, job: GuestJob) -> Guest:
        """Never: the protocol has no way to talk with a program.

        Raises:
            SandboxUnavailable: always.
        """
        raise SandboxUnavailable(
            "the sandbox backend 'sandbox_fusion' cannot talk with a running program, so it judges "
            "programs by their output only. Use backend = 'zygote' or 'bubblewrap'."
        )

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _post(self, body: dict[str, Any], limits: Limits) -> _Answer:
        timeout = limits.wall_seconds + self._options.queue_seconds
        with self._lock:
            if self._client is None:
                self._client = httpx2.Client(headers=self._options.headers)
            client = self._client
        url = self._options.url.rstrip("/") + "/run_code"
        try:
            response = client.post(url, json=body, timeout=timeout)
        except httpx2.HTTPError as error:
            raise _ServerFailed(f"{type(error).__name__}: {error}") from error
        if response.status_code != httpx2.codes.OK:
            raise _ServerFailed(f"HTTP {response.status_code}: {response.text[:200]}")
        try:
            return _Answer.model_validate_json(response.content)
        except ValidationError as error:
            raise _ServerFailed(f"an answer that is not the protocol's: {error}") from error


def _encode(job: ScriptJob) -> dict[str, Any]:
    """The request.

    Raises:
        UnicodeDecodeError: if source or input is not text.
    """
    source = job.source if isinstance(job.source, str) else job.source.decode()
    return {
        "code": source,
        "language": "python",
        "stdin": job.stdin.decode(),
        "run_timeout": job.limits.wall_seconds,
        "memory_limit_MB": job.limits.memory_mb,
        "files": {name: base64.b64encode(text).decode() for name, text in job.files.items()},
        "fetch_files": list(job.fetch),
    }


def _decode(answer: _Answer, limits: Limits) -> Reply:
    """The reply.

    Raises:
        _ServerFailed: if the server says that it failed.
    """
    result = answer.run_result
    if answer.status == "SandboxError" or result is None or result.status == "Error":
        raise _ServerFailed(f"{answer.status}: {answer.message or 'no result'}")
    stdout, stderr = ((text or "").encode() for text in (result.stdout, result.stderr))
    seconds = result.execution_time or 0.0
    try:
        files = {
            name: base64.b64decode(text, validate=True)
            for name, text in (answer.files or {}).items()
            if text is not None
        }
    except binascii.Error as error:
        raise _ServerFailed(f"a file that is not base64: {error}") from error
    if max(len(stdout), len(stderr)) > limits.output_bytes:
        detail = f"wrote more than {limits.output_bytes} bytes of output"
        return Reply(Status.OUTPUT, stdout, stderr, seconds=seconds, detail=detail)
    if result.status == "TimeLimitExceeded":
        if max(len(stdout), len(stderr)) >= _FULL_PIPES:
            detail = f"wrote more output than the server can take ({len(stdout)} bytes came)"
            return Reply(Status.OUTPUT, stdout, stderr, seconds=seconds, detail=detail)
        detail = f"ran longer than {limits.wall_seconds:g} s"
        return Reply(Status.TIMEOUT, stdout, stderr, seconds=seconds, detail=detail)
    code = result.return_code
    if result.status != "Finished" or code is None:
        raise _ServerFailed(f"a result without a return code: {result.status}")
    if code < 0:
        detail = f"ended by signal {-code}"
        return Reply(Status.KILLED, stdout, stderr, None, -code, seconds, detail=detail)
    detail = f"exit code {code}" if code else ""
    return Reply(Status.FINISHED, stdout, stderr, code, seconds=seconds, detail=detail, files=files)
