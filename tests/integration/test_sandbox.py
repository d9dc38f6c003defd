"""What the sandbox does with honest and dishonest jobs: results, limits, guests, its own faults."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
)
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox
from sandbox_world import WAYS, open_way

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

GUEST = """
import helper

def main(channel, payload):
    if payload == b"silent":
        import time
        time.sleep(60)
    if payload == b"forge":
        import os
        os.write(3, b"x" * 100)
        channel.receive()
    if payload == b"huge":
        import os, struct
        os.write(3, struct.pack("<I", 1 << 31) + b"0" * 8)
        channel.receive()
    if payload == b"flood":
        while True:
            channel.send(b"y" * 100_000)
    if payload == b"crash":
        raise ValueError("of the guest")
    if payload == b"spin":
        channel.send(b"spinning")
        while True:
            pass
    print("started with", payload)
    while (frame := channel.receive()) is not None:
        channel.send(helper.answer(frame))
    print("closed")
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("guests")
    (folder / "helper.py").write_text("def answer(frame):\n    return frame[::-1]\n")
    (folder / "echo.py").write_text(GUEST)
    return {"helper": folder / "helper.py", "echo_guest": folder / "echo.py"}


@pytest.fixture(scope="module", params=["all layers", pytest.param("os", marks=pytest.mark.slow)])
def sandbox(request: pytest.FixtureRequest, guests: dict[str, Path]) -> Iterator[Sandbox]:
    opened = open_way(request.param, guests=guests)
    yield opened
    opened.close()


def run(sandbox: Sandbox, source: str, **more: Any) -> Any:
    return sandbox.run(ScriptJob(source=source, **more))


# Honest programs


def test_a_program_has_input_files_and_output(sandbox: Sandbox) -> None:
    source = """
import os, sys
print(input(), sys.stdin.read(), open('/dev/stdin').read() == 'one\\ntwo')
print(open('folder/data.txt').read(), sorted(os.listdir('.')), os.getcwd() == os.environ['HOME'])
print('to stderr', file=sys.stderr)
open('made', 'w').write('by it'); sys.exit(7)
"""
    files = {"folder/data.txt": b"data"}
    reply = run(sandbox, source, stdin=b"one\ntwo", files=files, fetch=("made", "missing"))
    assert reply.stdout == b"one two True\ndata ['folder'] True\n"
    assert (reply.status, reply.exit_code, reply.signal) == (Status.FINISHED, 7, None)
    assert reply.stderr == b"to stderr\n" and reply.files == {"made": b"by it"}
    assert reply.seconds > 0 and reply.cpu_seconds > 0 and reply.memory_mb > 1


ORDINARY = {
    "threads": """
import threading
r = []
ts = [threading.Thread(target=r.append, args=(i,)) for i in range(20)]
[t.start() for t in ts]; [t.join() for t in ts]; print(len(r))
""",
    "asyncio": """
import asyncio
async def f(): await asyncio.sleep(0.001); return 20
print(asyncio.run(f()))
""",
    "deep recursion": """
import sys, threading
sys.setrecursionlimit(10 ** 6); threading.stack_size(64 << 20)
def f(n): return 0 if n == 0 else 1 + f(n - 1)
t = threading.Thread(target=lambda: print(f(20000) // 1000)); t.start(); t.join()
""",
    "temporary files": """
import shutil, tempfile
with tempfile.TemporaryDirectory() as d:
    open(d + '/a', 'w').write('20'); shutil.copyfile(d + '/a', d + '/b')
    print(open(d + '/b').read())
""",
    "sqlite": """
import sqlite3
c = sqlite3.connect('x.db'); c.execute('create table t(a)'); c.execute('insert into t values (20)')
c.commit(); print(c.execute('select a from t').fetchone()[0])
""",
    "signals": """
import os, signal
signal.signal(signal.SIGALRM, lambda *a: print(20)); signal.setitimer(signal.ITIMER_REAL, 0.001)
signal.pause()
""",
    "ctypes": "import ctypes\nprint(ctypes.CDLL(None).abs(-20))",
    "time zones": "import zoneinfo\nprint(20 if zoneinfo.ZoneInfo('Asia/Tokyo') else 0)",
    "dataclasses": """
from dataclasses import dataclass
@dataclass
class A:
    x: int = 20
print(A().x)
""",
    "main guard": "if __name__ == '__main__': print(20)",
    "pickle": """
import pickle
class A: pass
print(20 if isinstance(pickle.loads(pickle.dumps(A())), A) else 0)
""",
    "atexit": "import atexit\natexit.register(print, 20)",
    "daemon": """
import threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print(20)
""",
    "pipes": "import os\nr, w = os.pipe(); os.write(w, b'20'); print(os.read(r, 9).decode())",
    "lazy import": "import wave, html.parser, fractions, xml.etree.ElementTree\nprint(20)",
    "encoding": "print('zwanzig'.encode('punycode') and 20, '\\u00fc' and '')",
    "caught interrupt": """
import os, signal
try: os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt: print(20)
""",
}  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_programs_work(sandbox: Sandbox, name: str) -> None:
    reply = run(sandbox, ORDINARY[name])
    assert (reply.status, reply.exit_code, reply.stdout.strip()) == (Status.FINISHED, 0, b"20"), (
        reply
    )


def test_errors_look_as_usual(sandbox: Sandbox) -> None:
    reply = run(sandbox, "def f():\n    raise KeyError('gone')\n\nf()\n")
    assert reply.exit_code == 1 and reply.stderr.decode() == (
        "Traceback (most recent call last):\n"
        '  File "main.py", line 4, in <module>\n    f()\n'
        "  File \"main.py\", line 2, in f\n    raise KeyError('gone')\n"
        "KeyError: 'gone'\n"
    )
    assert b"SyntaxError" in run(sandbox, "def").stderr
    assert run(sandbox, "import sys; sys.exit('message')").stderr == b"message\n"
    assert run(sandbox, "raise SystemExit").exit_code == 0
    assert b"null bytes" in run(sandbox, "x\0").stderr
    assert run(sandbox, b"\xff\xfe".decode("latin-1")).exit_code == 1


def test_a_program_does_the_same_every_time(sandbox: Sandbox) -> None:
    source = "import random\nprint(list({'a', 'b', 'c', 'd'}), hash('x'), random.random())"
    assert len({run(sandbox, source).stdout for _ in range(3)}) == 1


def test_installed_packages_are_out_of_reach(sandbox: Sandbox) -> None:
    for package in ("pydantic", "grpo_core", "grpo_tasks", "pytest"):
        assert b"ModuleNotFoundError" in run(sandbox, f"import {package}").stderr


def test_only_packages_asked_for_are_there() -> None:
    with_numpy = open_way("all layers", preload=("numpy",))
    limits = Limits(memory_mb=1024)
    reply = run(
        with_numpy, "import numpy.linalg as l\nprint(l.det([[2, 0], [0, 3]]))", limits=limits
    )
    assert reply.stdout.startswith(b"6.0") or reply.stdout.startswith(b"5.99"), reply
    assert b"ModuleNotFoundError" in run(with_numpy, "import pydantic", limits=limits).stderr
    with_numpy.close()


# Limits


@pytest.mark.parametrize(
    ("source", "limits", "status", "detail"),
    [
        ("while True: pass", {"wall_seconds": 0.2}, Status.TIMEOUT, "0.2 s"),
        ("import time\ntime.sleep(60)", {"wall_seconds": 0.2}, Status.TIMEOUT, "0.2 s"),
        ("while True: pass", {"cpu_seconds": 1.0}, Status.TIMEOUT, "processor time"),
        ("bytearray(1 << 30)", {}, Status.MEMORY, "512 MB"),
        ("bytearray(60 << 20)", {"memory_mb": 1}, Status.FINISHED, ""),  # there is a least
        ("print('x' * 200_000)", {"output_bytes": 200_001}, Status.FINISHED, ""),
        ("print('x' * 200_000)", {"output_bytes": 200_000}, Status.OUTPUT, "200000 bytes"),
        ("import sys\nsys.stderr.write('x' * 9999)", {"output_bytes": 999}, Status.OUTPUT, "999"),
        ("import os\nos.abort()", {}, Status.KILLED, "SIGABRT"),
        ("import ctypes\nctypes.string_at(0)", {}, Status.KILLED, "SIGSEGV"),
        ("open('f', 'wb').write(bytes(3 << 20))", {"file_mb": 2}, Status.FINISHED, "exit code"),
    ],
)
def test_limits_hold(
    sandbox: Sandbox, source: str, limits: dict[str, Any], status: Status, detail: str
) -> None:
    reply = run(sandbox, source, limits=Limits(**{"wall_seconds": 20.0, **limits}))
    assert reply.status is status and detail in reply.detail, reply
    assert max(len(reply.stdout), len(reply.stderr)) <= max(limits.get("output_bytes", 0), 1 << 20)


def test_names_that_lead_out_of_the_working_directory_are_refused(sandbox: Sandbox) -> None:
    for name in ("/etc/x", "../x", "a/../../x", "", ".", "a\0b"):
        with pytest.raises(ValueError, match="working directory"):
            run(sandbox, "", files={name: b""})
        with pytest.raises(ValueError, match="working directory"):
            run(sandbox, "", fetch=(name,))


def test_results_are_capped_and_links_are_not_followed(sandbox: Sandbox) -> None:
    source = """
import os
open('large', 'wb').truncate(1 << 20); os.symlink('/etc/passwd', 'link'); os.mkdir('folder')
"""
    reply = run(sandbox, source, fetch=("large", "link", "folder"), limits=Limits(file_mb=1))
    assert set(reply.files) == {"large"} and len(reply.files["large"]) == 1 << 20


# Guests


def test_a_guest_talks_in_frames(sandbox: Sandbox) -> None:
    with sandbox.start(GuestJob(guest="echo_guest", payload=b"p")) as guest:
        for frame in (b"abc", b"", b"x" * 300_000 + b"y"):
            assert guest.send(frame) and guest.receive(10) == frame[::-1]
        assert guest.receive(0.01) is None and not guest.is_over
        reply = guest.close()
    assert reply.status is Status.FINISHED and reply.stdout == b"started with b'p'\nclosed\n"
    assert guest.is_over and not guest.send(b"late") and guest.close() is reply


def test_two_guests_talk_at_once(sandbox: Sandbox) -> None:
    with (
        sandbox.start(GuestJob(guest="echo_guest")) as one,
        sandbox.start(GuestJob(guest="echo_guest")) as other,
    ):
        one.send(b"12")
        other.send(b"34")
        assert (other.receive(10), one.receive(10)) == (b"43", b"21")


@pytest.mark.parametrize(
    ("payload", "status"),
    [(b"forge", Status.KILLED), (b"huge", Status.KILLED), (b"silent", Status.TIMEOUT)],
)
def test_a_guest_that_breaks_the_rules_is_over(
    sandbox: Sandbox, payload: bytes, status: Status
) -> None:
    limits = Limits(wall_seconds=0.5)
    with sandbox.start(GuestJob(guest="echo_guest", payload=payload, limits=limits)) as guest:
        assert guest.receive() is None and guest.is_over
        assert guest.close().status is status


def test_a_guest_that_crashes_says_so_on_stderr(sandbox: Sandbox) -> None:
    with sandbox.start(GuestJob(guest="echo_guest", payload=b"crash")) as guest:
        assert guest.receive() is None
        reply = guest.close()
    assert (reply.status, reply.exit_code) == (Status.FINISHED, 1)
    assert b"ValueError: of the guest" in reply.stderr


def test_a_flood_waits_until_it_is_read(sandbox: Sandbox) -> None:
    limits = Limits(wall_seconds=1.0)
    with sandbox.start(GuestJob(guest="echo_guest", payload=b"flood", limits=limits)) as guest:
        for _ in range(50):
            assert guest.receive(10) == b"y" * 100_000
        guest.send(b"z" * 1_000_000)  # nobody reads it: no deadlock, and an end
        assert guest.close().status in (Status.TIMEOUT, Status.FINISHED)


def test_leaving_the_block_ends_a_guest(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, ZygoteSandbox)
    limits = Limits(wall_seconds=60.0)
    with sandbox.start(GuestJob(guest="echo_guest", payload=b"spin", limits=limits)) as guest:
        assert guest.receive(10) == b"spinning"
        time.sleep(0.3)  # until nobody else is
        pid = next(pid for pid in descendants(sandbox.pid) if is_busy(pid))
    assert guest.close().status is Status.KILLED and guest.is_over
    wait_until(lambda: not living(pid))


def is_busy(pid: int) -> bool:
    """Whether a process uses the processor."""
    before, until = processor_time(pid), time.monotonic() + 0.3
    while time.monotonic() < until:
        if processor_time(pid) > before:
            return True
        time.sleep(0.01)
    return False


def processor_time(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_guest_may_warm_up_in_the_zygote(tmp_path: Path) -> None:
    (tmp_path / "warm.py").write_text(
        "READY = []\ndef warm_up():\n    READY.append(1)\n"
        "def main(channel, payload):\n    print(len(READY))\n"
    )
    sandbox = open_way("all layers", guests={"warm_guest": tmp_path / "warm.py"})
    for _ in range(2):
        assert sandbox.run(GuestJob(guest="warm_guest")).stdout == b"1\n"
    sandbox.close()


def test_there_are_spares_for_a_burst_and_they_come_back(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, ZygoteSandbox)
    run(sandbox, "")
    wait_until(lambda: len(descendants(sandbox.pid)) >= 2)
    idle = len(descendants(sandbox.pid))
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: run(sandbox, "import time\ntime.sleep(0.2)"), range(12)))
    assert {reply.status for reply in replies} == {Status.FINISHED}
    wait_until(lambda: len(descendants(sandbox.pid)) <= max(idle, 6))


def test_a_spare_that_is_killed_is_an_error_at_most(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, ZygoteSandbox)
    run(sandbox, "")
    zygote = sandbox.pid
    for _ in range(3):
        spares = [pid for pid in descendants(zygote) if not descendants(pid)]
        for pid in spares:
            os.kill(pid, signal.SIGKILL)
        reply = run(sandbox, "print(1)")
        assert reply.stdout == b"1\n" or reply.status is Status.ERROR, reply
        wait_until(lambda: run(sandbox, "print(1)").stdout == b"1\n")
    assert sandbox.pid == zygote


def test_a_guest_that_was_not_given_is_the_callers_mistake(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no guest 'nobody'"):
        sandbox.start(GuestJob(guest="nobody"))


# Commands


def test_commands_run_with_a_fixed_environment() -> None:
    sandbox = open_way("all layers")
    reply = sandbox.run(CommandJob(argv=("env",), env={"MINE": "1"}))
    names = {line.split("=")[0] for line in reply.stdout.decode().splitlines()}
    assert names == {"PATH", "LANG", "TZ", "HOME", "TMPDIR", "MINE"}
    script = b"#!/bin/sh\nread line\necho got $line; exit 3\n"
    job = CommandJob(argv=("./run",), files={"run": script}, executable=("run",), stdin=b"it\n")
    reply = sandbox.run(job)
    assert (reply.exit_code, reply.stdout) == (3, b"got it\n")
    assert sandbox.run(CommandJob(argv=("no-such-program",))).exit_code == 127
    reply = sandbox.run(CommandJob(argv=("sh", "-c", "kill -SEGV $$")))
    assert (reply.status, reply.signal) == (Status.KILLED, signal.SIGSEGV)
    reply = sandbox.run(CommandJob(argv=("sh", "-c", "yes"), limits=Limits(output_bytes=5000)))
    assert reply.status is Status.OUTPUT and len(reply.stdout) == 5000
    sandbox.close()


# From anywhere, at once


def test_it_works_from_threads_and_asyncio(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: run(sandbox, f"print({n})"), range(40)))
    assert [int(reply.stdout) for reply in replies] == list(range(40))

    async def many() -> list[Any]:
        return await asyncio.gather(
            *(asyncio.to_thread(run, sandbox, "print(1)") for _ in range(9))
        )

    assert [reply.stdout for reply in asyncio.run(many())] == [b"1\n"] * 9


def test_a_thread_that_ends_does_not_take_the_sandbox_along() -> None:
    sandbox = open_way("all layers")
    thread = threading.Thread(target=lambda: run(sandbox, ""))
    thread.start()
    thread.join()
    assert isinstance(sandbox, ZygoteSandbox)
    before = sandbox.pid
    assert run(sandbox, "print(1)").stdout == b"1\n" and sandbox.pid == before
    sandbox.close()


def test_a_forked_process_gets_a_zygote_of_its_own(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, ZygoteSandbox)
    ours = sandbox.pid
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            same = sandbox.pid == ours
            os.write(writing, run(sandbox, f"print({same})").stdout)
            sandbox.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 99) == b"False\n" and run(sandbox, "print(2)").stdout == b"2\n"
    os.close(reading)
    os.close(writing)


# Faults of its own


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False


def wait_until(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        children = []
    return [int(child) for child in children] + [
        found for child in children for found in descendants(int(child))
    ]


@pytest.mark.parametrize("way", ["all layers", "os"])
def test_a_zygote_that_dies_is_replaced_and_its_jobs_are_errors(way: str) -> None:
    sandbox = open_way(way)
    assert isinstance(sandbox, ZygoteSandbox)
    with ThreadPoolExecutor(1) as pool:
        first = sandbox.pid
        under_way = pool.submit(run, sandbox, "import time\ntime.sleep(60)")
        time.sleep(0.3)  # until the job has begun
        family = descendants(first)
        os.kill(first, signal.SIGKILL)
        assert under_way.result().status is Status.ERROR
    wait_until(lambda: not any(map(living, family)))
    assert run(sandbox, "print(1)").stdout == b"1\n" and sandbox.pid != first
    sandbox.close()


@pytest.mark.parametrize("way", ["all layers", "os"])
def test_all_ends_with_the_caller_however_it_ends(way: str, tmp_path: Path) -> None:
    program = f"""
import sys, threading, time
from grpo_verifiers.sandbox import ScriptJob, open_sandbox
sandbox = open_sandbox(**{WAYS[way]!r})
job = ScriptJob(source="import time; time.sleep(60)")
threading.Thread(target=sandbox.run, args=(job,)).start()
while True:
    print(sandbox.pid, flush=True); time.sleep(0.2)
"""
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    wait_until(lambda: descendants(pid))
    family = [pid, *descendants(pid)]
    caller.kill()
    caller.wait()
    caller.stdout.close()
    wait_until(lambda: not any(map(living, family)))


def test_nothing_is_left_after_the_end(guests: dict[str, Path]) -> None:
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    sandbox = open_way("all layers", guests=guests)
    assert isinstance(sandbox, ZygoteSandbox)
    run(sandbox, "open('f', 'w').write('x')", files={"a/b": b""}, fetch=("f",))
    with sandbox.start(GuestJob(guest="echo_guest")) as guest:
        guest.send(b"x")
    family = [sandbox.pid, *descendants(sandbox.pid)]
    sandbox.close()
    assert not any(map(living, family))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_zygote_that_cannot_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    sandbox = open_sandbox(guests={"broken": tmp_path / "broken.py"})
    with pytest.raises(SandboxUnavailable, match=r"ended while starting|cannot"):
        run(sandbox, "")


@pytest.mark.slow
def test_it_works_inside_of_a_verifier_pool(tmp_path: Path) -> None:
    from grpo_core.plugin_manager import PluginSources
    from grpo_core.types import Sample
    from grpo_core.verification.launch import VerifierSpec
    from grpo_core.verification.pool import VerifierPool

    plugin = tmp_path / "runs_programs.py"
    plugin.write_text(
        """
from grpo_core import hookimpl, verifier
from grpo_verifiers.sandbox import ScriptJob, open_sandbox

SANDBOX = open_sandbox()

@verifier(version="1")
def runs(sample):
    reply = SANDBOX.run(ScriptJob(source=sample.completion))
    return reply.stdout.decode().strip() == sample.reference

@hookimpl
def grpo_register_verifiers(register):
    register("runs", runs)
"""
    )
    sources = PluginSources((str(plugin),), use_entry_points=False)
    with VerifierPool([VerifierSpec("runs")], sources, workers=2) as pool:
        samples = [Sample("", f"print({n} * 2)", str(n * 2)) for n in range(20)]
        verdicts = pool.verify("runs", samples)
        assert all(verdict.is_correct for verdict in verdicts)
