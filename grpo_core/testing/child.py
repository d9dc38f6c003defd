"""The suite's own process, and processes with a chosen hash seed.

A child gets one job as JSON on standard input and answers with JSON lines on what was its standard
output; whatever plugins print goes to standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import IO, Any

from grpo_core.errors import GrpoError, VerifierError
from grpo_core.plugin_manager import PluginSources
from grpo_core.testing.answers import Answer, ask_singly
from grpo_core.testing.bench import Bench, Settings, closing_instance
from grpo_core.testing.example import Example
from grpo_core.testing.report import CheckResult
from grpo_core.testing.subject import Subject
from grpo_core.types import Json, Sample

_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[1:]; from grpo_core.testing.child import main; main()"
)
_SHOWN = 200  # characters of a text that a child tells of
_SECONDS = 300.0  # for a child with a hash seed


def start(hash_seed: int, errors: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
    """A fresh interpreter that sees this one's sys.path and waits for a job."""
    return subprocess.Popen(
        [sys.executable, "-c", _BOOTSTRAP, *map(str, sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        start_new_session=True,
    )


def to_job(subject: Subject, **job: Json) -> bytes:
    """A job for a verifier that other processes can find."""
    described = {
        "title": subject.title,
        "name": subject.name,
        "files": subject.sources.files,
        "use_entry_points": subject.sources.use_entry_points,
        "options": dict(subject.options),
    }
    return json.dumps({"subject": described, **job}).encode()


def ask_with_hash_seed(subject: Subject, samples: Sequence[Sample], seed: int) -> list[Answer]:
    """Single calls in a process with that PYTHONHASHSEED.

    Raises:
        VerifierError: if the process ends without an answer.
    """
    from grpo_core.verification.protocol import decode_verdict

    fields = [
        [s.prompt, s.completion, s.reference, dict(s.meta), list(s.messages), list(s.token_ids)]
        for s in samples
    ]
    with start(seed, subprocess.PIPE) as process:
        try:
            out, err = process.communicate(to_job(subject, samples=fields), timeout=_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise VerifierError(f"no verdicts after {_SECONDS:g} s in another process") from error
    if process.returncode:
        [*_, last] = err.decode(errors="replace").splitlines() or ["it said nothing"]
        raise VerifierError(f"another process ended with code {process.returncode}: {last[:1000]}")
    return [
        Answer(decode_verdict(verdict, "", "", 0.0)) if problem is None else Answer(None, problem)
        for verdict, problem in json.loads(out)
    ]


def main() -> None:
    """Do the job."""
    from grpo_core.verification.isolation import die_with_parent

    die_with_parent()  # who hangs must not outlive the command
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.buffer.read())
    described = job["subject"]
    sources = PluginSources(tuple(described["files"]), described["use_entry_points"])
    subject = Subject(described["title"], described["name"], sources, described["options"])
    if "samples" in job:
        _judge(subject, [_sample(fields) for fields in job["samples"]], out)
    else:
        _check(subject, job, out)
    out.close()


def _judge(subject: Subject, samples: Sequence[Sample], out: IO[str]) -> None:
    with closing_instance(subject.create()) as instance:
        answers = ask_singly(instance, samples)
    json.dump([[_essence(answer), answer.problem] for answer in answers], out)


def _essence(answer: Answer) -> Json:
    """The verdict without its details, which the comparison leaves out."""
    from grpo_core.verification.protocol import encode_verdict

    if answer.verdict is None:
        return None
    return json.loads(encode_verdict(replace(answer.verdict, details={})))


def _sample(fields: list[Json]) -> Sample:
    prompt, completion, reference, meta, messages, token_ids = fields
    return Sample(prompt, completion, reference, meta, tuple(messages), tuple(token_ids))


def _check(subject: Subject, job: Mapping[str, Any], out: IO[str]) -> None:
    from grpo_core.testing.run import run_checks

    def tell(**message: Json) -> None:
        print(json.dumps(message), file=out, flush=True)

    values = job["settings"]
    names = {key: tuple(values[key]) for key in ("checks", "kinds")}
    settings = Settings(**{**values, **names})
    examples = [Example(**example) for example in job["examples"]]
    try:
        bench = Bench(
            subject, examples, settings, is_fresh=True, say=lambda text: tell(asking=text[:_SHOWN])
        )
    except GrpoError as error:
        tell(error=[type(error).__name__, str(error)])
        return
    version, deadline = (getattr(bench.instance, key, None) for key in ("version", "deadline"))
    is_number = isinstance(deadline, int | float)
    tell(version=str(version or "0"), deadline=deadline if is_number else 0.0)
    for event in run_checks(bench, job["outcomes"]):
        if isinstance(event, CheckResult):
            tell(result=event.to_json())
        else:
            tell(start=event.name)
    bench.close()
