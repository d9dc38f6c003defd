"""The code verifier in a real sandbox: right and wrong programs, limits, languages."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_core.testing import check_verifier
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_verifiers.code import CodeVerifier
from grpo_verifiers.sandbox import Layer, Reply, SandboxUnavailable, ScriptJob
from grpo_verifiers.sandbox import Status as JobStatus
from grpo_verifiers.sandbox.inside import landlock

DATA = Path(__file__).parents[1] / "data"
PAIRS = [json.loads(line) for line in (DATA / "code_pairs.jsonl").read_text().splitlines()]
ADD = {"tests": "assert add(1, 2) == 3\nassert add(4, 8) == 12\n", "entry_point": "add"}
TOOLS = {"cpp": "g++", "javascript": "node"}


def fenced(code: str, tag: str = "python") -> str:
    return f"```{tag}\n{code}\n```"


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    result = CodeVerifier(CodeVerifier.Config(timeout=3, total_timeout=15))
    if landlock.abi() == 0:
        pytest.skip("the sandbox needs Landlock, which this kernel does not have")
    result.preload()
    yield result
    result.close()


def judge(verifier: CodeVerifier, completion: str, reference: Json) -> Verdict:
    [verdict] = verifier.verify([Sample("", completion, reference)])
    return verdict


def quick(code: str, reference: Json = ADD, **options: Any) -> Verdict:
    """A verdict of a verifier with options of its own."""
    verifier = CodeVerifier(CodeVerifier.Config(**options))
    try:
        return judge(verifier, fenced(code), reference)
    finally:
        verifier.close()


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["id"] for pair in PAIRS])
def test_right_and_wrong_programs(verifier: CodeVerifier, pair: dict[str, Any]) -> None:
    reference = pair["reference"]
    tool = TOOLS.get(reference.get("language", ""))
    if tool and shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    verifier.check_reference(reference)
    for completion in pair["accept"]:
        verdict = judge(verifier, completion, reference)
        assert verdict.status is Status.CORRECT, (completion, verdict)
    for completion in pair["reject"]:
        verdict = judge(verifier, completion, reference)
        assert verdict.status is Status.WRONG, (completion, verdict)
        json.dumps(dict(verdict.details))


def test_conformance(verifier: CodeVerifier) -> None:
    check_verifier(
        verifier,
        accept=[(fenced("def add(a, b): return a + b"), ADD)],
        reject=[(fenced("def add(a, b): return 3"), ADD), ("3", ADD), ("def add(a, b", ADD)],
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def add(a, b)\n    return a", "SyntaxError: expected ':' (line 1)"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import no_such_module", "those that the option preload names"),
        ("def sub(a, b): return a", "NameError: name 'add' is not defined"),
        ("def add(a, b):\n    return a / 0", "ZeroDivisionError: division by zero (line 2)"),
        ("def add(a, b): return object()", "an object is compared with a value"),
        ("import sys; sys.exit(0)", "cannot be loaded: SystemExit: 0"),
        ("import os; os._exit(0)", "exited early while it was loaded"),
        ("def add(a, b): __import__('os').abort()", "killed by signal 6"),
        ("def add(a, b): return bytearray(1 << 30)", "MemoryError"),
        ("def add(a, b): return 1 << 100000", "more than 4300 digits"),
        ("def add(a, b): return print('x' * 2_000_000)", "wrote too much output"),
    ],
)
def test_reasons(verifier: CodeVerifier, code: str, reason: str) -> None:
    verdict = judge(verifier, fenced(code), ADD)
    assert verdict.status is Status.WRONG
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("code", "reference"),
    [
        ("while True: pass", ADD),
        ("def add(a, b):\n    while True: pass", ADD),
        ("import time\ndef add(a, b): time.sleep(60)", {**ADD, "in_place": True}),
        ("while True: pass", {"cases": [{"stdin": "", "stdout": "1"}]}),
    ],
    ids=["loading", "call", "relayed call", "program"],
)
def test_running_out_of_time_is_the_candidates_fault(code: str, reference: Json) -> None:
    verdict = quick(code, reference, timeout=0.3)
    assert verdict.status is Status.WRONG
    assert "timed out" in verdict.reason


def test_partial_marks(verifier: CodeVerifier) -> None:
    code = "def add(a, b):\n    if a == 2: __import__('os')._exit(0)\n    return 3"
    tests = "assert add(1, 2) == 3\nassert add(2, 2) == 3\nassert add(3, 0) == 3\nassert not add(4)"
    reference = {"tests": tests}
    for in_place in (False, True):
        verdict = quick(code, {**reference, "in_place": in_place}, partial=True)
        assert verdict.status is Status.WRONG
        assert verdict.score == (0.25 if in_place else 0.5)
    assert judge(verifier, fenced(code), reference).score == 0
    statuses = [item["status"] for item in quick(code, reference).details["tests"]]
    assert statuses == ["passed", "failed", "not run", "not run"]


def test_partial_marks_of_programs_and_relayed_tests() -> None:
    cases = {"cases": [{"stdin": f"{n}\n", "stdout": f"{n}\n"} for n in range(4)]}
    verdict = quick("print(min(int(input()), 2))", cases, partial=True)
    assert (verdict.status, verdict.score) == (Status.WRONG, 0.75)
    tests = "".join(f"for n in [{n}]:\n    assert f(n) == n\n" for n in range(4))
    verdict = quick("def f(n): return min(n, 2)", {"tests": tests}, partial=True)
    assert (verdict.status, verdict.score) == (Status.WRONG, 0.75)


@pytest.mark.parametrize(
    "tests",
    [
        "import math\nassert f(1) == math.no_such_name",
        "for i in range(10): assert undefined_helper(i) == f(i)",
    ],
)
def test_tests_that_fail_by_themselves_pass_nobody(verifier: CodeVerifier, tests: str) -> None:
    verdict = judge(verifier, fenced("def f(x): return x"), {"tests": tests})
    assert verdict.status is Status.WRONG


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("def helper():\n    assert f(1)", "nothing calls it"),
        ("class TestA:\n    def test_a(self):\n        yield\n        assert f(1)", "`yield`"),
        ("from your_module import f\nassert f(1) == 1", "No module named 'your_module'"),
        ("for _ in [1]:\n    assert np.allclose(f(1), 1)", "No module named 'numpy'"),
        ("def test_f(tmp_path):\n    assert f(1)", "fixture 'tmp_path'"),
        ("for _ in [1]:\n    assert f(getattr, 1) == 2", "opens too much"),
    ],
)
def test_broken_tests_are_nobodys_fault(verifier: CodeVerifier, tests: str, why: str) -> None:
    verdict = judge(verifier, fenced("def f(*x): return 1"), {"tests": tests})
    assert verdict.status is Status.ERROR
    assert why in verdict.reason


def test_an_unreadable_reference_is_an_error(verifier: CodeVerifier) -> None:
    verdict = judge(verifier, fenced("def f(): pass"), {"tests": "assert f("})
    assert verdict.status is Status.ERROR


def test_the_same_verdicts_from_threads(verifier: CodeVerifier) -> None:
    good = Sample("", fenced("def add(a, b): return a + b"), ADD)
    bad = Sample("", fenced("def add(a, b): return 3"), ADD)
    found: list[list[Status]] = []

    def run() -> None:
        found.append([verdict.status for verdict in verifier.verify([good, bad] * 3)])

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[Status.CORRECT, Status.WRONG] * 3] * 3


def test_random_inputs_are_the_same_for_the_same_program(verifier: CodeVerifier) -> None:
    tests = "import random\nfor _ in [1]:\n    assert f(random.random()) == 0\n"
    code = "def f(x): raise ValueError(repr(x))"
    reasons = {judge(verifier, fenced(code), {"tests": tests}).reason for _ in range(3)}
    assert len(reasons) == 1
    other = judge(verifier, fenced(code + "  # another program"), {"tests": tests})
    assert other.reason not in reasons


def test_too_weak_a_sandbox_is_refused_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> Any:
        raise SandboxUnavailable("Landlock is missing")

    monkeypatch.setattr("grpo_verifiers.code.verifier.open_sandbox", refuse)
    with pytest.raises(SandboxUnavailable):
        CodeVerifier().preload()
    verdict = judge(CodeVerifier(), fenced("def add(a, b): return a + b"), ADD)
    assert verdict.status is Status.ERROR


class Faltering:
    """The real sandbox, whose first jobs fail."""

    name = "faltering"
    job_types = (ScriptJob,)

    def __init__(self, sandbox: Any, failures: int) -> None:
        self._sandbox, self.failures = sandbox, failures

    def run(self, job: Any) -> Any:
        self.failures -= 1
        if self.failures >= 0:
            return Reply(JobStatus.ERROR, detail="out of descriptors")
        return self._sandbox.run(job)


@pytest.mark.parametrize(("failures", "status"), [(1, Status.CORRECT), (2, Status.ERROR)])
def test_a_failure_of_the_sandbox_is_tried_again_and_never_wrong(
    verifier: CodeVerifier, failures: int, status: Status
) -> None:
    failing = CodeVerifier()
    failing._opened = Faltering(verifier._sandbox(), failures)  # type: ignore[assignment]
    for reference in ({"cases": [{"stdin": "", "stdout": "3"}]}, {"tests": "assert f() == 3"}):
        failing._opened.failures = failures  # type: ignore[attr-defined]
        verdict = judge(failing, fenced("def f(): return 3\nprint(3)"), reference)
        assert verdict.status is status, verdict


class Upper:
    """A stranger's language: its programs are templates for the shell's printf."""

    name = "upper"
    tags = ("upper",)
    tools = ("printf",)
    install = "apt-get install coreutils"

    def compile_job(self, source: str, limits: Any) -> None:
        return None

    def run_job(self, source: str, built: Any, stdin: bytes, limits: Any) -> Any:
        from grpo_verifiers.sandbox import CommandJob

        return CommandJob(argv=("printf", "%s", source.upper().strip()), limits=limits)


UPPER = Upper()


def test_a_language_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "grpo_verifiers.code.languages.registry._load",
        lambda target: {"mine:UPPER": UPPER}[target],
    )
    options = {"languages": {"upper": "mine:UPPER"}}
    reference = {"language": "upper", "cases": [{"stdin": "", "stdout": "HELLO"}]}
    verifier = CodeVerifier(CodeVerifier.Config(**options))
    try:
        assert judge(verifier, fenced("hello", "upper"), reference).is_correct
        assert judge(verifier, fenced("bye", "upper"), reference).status is Status.WRONG
    finally:
        verifier.close()


def test_the_layers_were_proved(verifier: CodeVerifier) -> None:
    layers = verifier._sandbox().layers
    assert all(isinstance(layer, Layer) for layer in layers)
    assert {layer.name for layer in layers if layer.used} >= {"landlock", "seccomp"}


class ScriptsOnly:
    """The real sandbox, as one that runs nothing but scripts."""

    name = "scripts"
    job_types = (ScriptJob,)

    def __init__(self, sandbox: Any) -> None:
        self._sandbox = sandbox

    def run(self, job: Any) -> Any:
        assert isinstance(job, ScriptJob)
        return self._sandbox.run(job)


@pytest.mark.parametrize(
    ("code", "tests", "status", "reason"),
    [
        ("def f(x): return (x, {x})", "assert f(1) == (1, {1})", Status.CORRECT, "1 test passed"),
        ("def f(x): return [x]", "assert f(1) == (1,)", Status.WRONG, "gave [1], expected (1,)"),
        ("print('y', end='')\ndef f(x): print(x); return 1", "assert f(1)", Status.CORRECT, ""),
        ("import os\ndef f(x): os._exit(0)", "assert f(1)", Status.WRONG, "exited early"),
        ("def f(x):\n    while 1: pass", "assert f(1)", Status.WRONG, "timed out"),
        ("def f(x): return f", "assert f(1)", Status.WRONG, "not a builtin value"),
        ("def f(x):", "assert f(1)", Status.WRONG, "cannot be loaded: IndentationError"),
        ("def f(x): return 1", "for i in [1]: assert f(1)", Status.ERROR, "two processes"),
    ],
)
def test_a_sandbox_that_runs_scripts_only(
    verifier: CodeVerifier, code: str, tests: str, status: Status, reason: str
) -> None:
    limited = CodeVerifier(CodeVerifier.Config(timeout=0.5))
    limited._opened = ScriptsOnly(verifier._sandbox())  # type: ignore[assignment]
    verdict = judge(limited, fenced(code), {"tests": tests})
    assert verdict.status is status
    assert reason in verdict.reason
