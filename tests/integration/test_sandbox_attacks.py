"""Attacks on the sandbox, in every way to run it that this machine offers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sandbox_attacks
from grpo_verifiers.sandbox import CommandJob, Limits, Sandbox, ScriptJob, Status
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox
from sandbox_world import WAYS, World, make_world, open_way, processes_of

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "attacks.jsonl"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

QUICK = Limits(wall_seconds=5.0, memory_mb=256, output_bytes=100_000, file_mb=4)
SHORT = replace(QUICK, wall_seconds=0.5)
TRIES = {
    f"{kind}: {name}": program
    for kind in ("reads", "writes", "reaches", "harms")
    for name, program in getattr(sandbox_attacks, kind.upper()).items()
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    os.environ["SECRET_TOKEN"] = "SECRET"
    folder = tmp_path_factory.mktemp("world")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)  # what stops an attack shall be the sandbox, not this folder's mode
    with make_world(folder) as made:
        yield made
    del os.environ["SECRET_TOKEN"]


_FAST = ("all layers", "os")


@pytest.fixture(
    scope="module",
    params=[way if way in _FAST else pytest.param(way, marks=pytest.mark.slow) for way in WAYS],
)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    opened = open_way(request.param)
    yield opened
    opened.close()


def goes_on(sandbox: Sandbox) -> bool:
    """Whether a sandbox still runs honest programs."""
    reply = sandbox.run(ScriptJob(source="print(input())", stdin=b"alive"))
    return (reply.status, reply.stdout) == (Status.FINISHED, b"alive\n")


def counts_processes(sandbox: Sandbox) -> bool:
    return any(layer.name == "processes" and layer.used for layer in sandbox.layers)


def test_nothing_is_won(sandbox: Sandbox, world: World) -> None:
    before, won = world.state(), {}
    for name, program in TRIES.items():
        reply = sandbox.run(ScriptJob(source=world.aim(program), limits=QUICK))
        if reply.status is Status.ERROR or b"WON" in reply.stdout or world.state() != before:
            won[name] = (reply, world.state())
    time.sleep(0.1)  # for what arrives late
    assert not won and world.state() == before and goes_on(sandbox)


def test_bait_can_be_taken_where_nothing_holds(world: World) -> None:
    """The attacks are real: without a sandbox they win, in a child of this process."""
    attacks = {**sandbox_attacks.READS, **sandbox_attacks.REACHES}
    for name in ("open", "mmap by libc", "list root", "tcp", "udp", "datagram from a pair"):
        before = world.state()
        command = [sys.executable, "-S", "-c", world.aim(attacks[name])]
        result = subprocess.run(command, capture_output=True, timeout=60)
        time.sleep(0.1)
        assert b"WON" in result.stdout or world.state() != before, name
    world.reached.clear()


def test_what_one_job_leaves_the_next_does_not_find(sandbox: Sandbox) -> None:
    leave = """
import builtins, os, sys, json
json.dumps = builtins.left = sys.left = 'LEFT'
open('LEFT', 'w').close()
os.environ['LEFT'] = '1'
"""
    find = """
import builtins, ctypes, gc, os, sys, json
found = [hasattr(builtins, 'left'), hasattr(sys, 'left'), json.dumps(1) != '1']
found += ['LEFT' in os.environ, os.path.exists('LEFT'), os.listdir('.') != []]
found += [type(x) is str and x.startswith('marker of the first') for x in gc.get_objects()]
print(any(found))
"""
    sandbox.run(ScriptJob(source=leave + "x = 'marker of the ' + 'first'"))
    assert sandbox.run(ScriptJob(source=find)).stdout == b"False\n"


def memory_of(pid: int) -> bytes:
    """All that a process, and its children, have written to memory."""
    found: list[bytes] = []
    try:
        return _read_memory(pid, found)
    except (FileNotFoundError, ProcessLookupError):  # a child that has ended meanwhile
        return b"".join(found)


def _read_memory(pid: int, found: list[bytes]) -> bytes:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, modes, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if modes.startswith("rw") and "[v" not in line:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
                file.seek(start)
                found.append(file.read(end - start))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return b"".join([*found, *(memory_of(int(child)) for child in children)])


def test_nothing_of_a_job_is_in_the_memory_that_the_next_inherits(sandbox: Sandbox) -> None:
    assert isinstance(sandbox, ZygoteSandbox)
    code, given, name = "SEVENTEEN-ELEPHANTS", b"TWENTY-GIRAFFES", "NINE-TIGERS"
    sandbox.run(ScriptJob(source=f"print('{code}')", stdin=given, files={name: b"x" + given}))
    try:
        memory = memory_of(sandbox.pid)
    except PermissionError:
        pytest.skip("another process's memory cannot be read here")
    assert b"grpo-sandbox" in memory or len(memory) > 1 << 20  # it is the zygote's
    for needle in (code.encode(), given, name.encode()):
        assert needle not in memory


def test_a_job_does_not_see_one_that_runs_beside_it(sandbox: Sandbox) -> None:
    host = "import time\nopen('mine', 'w').write('private')\ntime.sleep(0.3)"
    snoop = """
import os
here = os.getcwd()
for n in range(10):
    place = os.path.join(os.path.dirname(here), str(n))
    if place != here:
        for act in (lambda: os.listdir(place), lambda: open(place + '/mine').read(),
                    lambda: open(place + '/new', 'w')):
            try: act(); print('WON', place)
            except OSError: pass
"""
    with ThreadPoolExecutor(2) as pool:
        neighbour = pool.submit(sandbox.run, ScriptJob(source=host))
        time.sleep(0.1)
        reply = sandbox.run(ScriptJob(source=snoop))
        assert neighbour.result().status is Status.FINISHED
    assert (reply.status, reply.stdout) == (Status.FINISHED, b"")


@pytest.mark.slow
@pytest.mark.parametrize("name", sandbox_attacks.EXHAUSTS)
def test_no_job_takes_more_than_its_share(sandbox: Sandbox, name: str) -> None:
    started = time.monotonic()
    reply = sandbox.run(ScriptJob(source=sandbox_attacks.EXHAUSTS[name], limits=SHORT))
    assert time.monotonic() - started < 30  # a hang; how long it takes is not looked at
    assert reply.status is not Status.ERROR, reply
    assert reply.memory_mb < QUICK.memory_mb and len(reply.stdout) <= QUICK.output_bytes
    if name != "threads" or any(
        layer.name == "processes" and layer.used for layer in sandbox.layers
    ):
        assert b"WON" not in reply.stdout, reply
    assert goes_on(sandbox)


COMMANDS = {
    "fork bomb": "f() { f | f & }; f; sleep 20",
    "daemons": "for i in 1 2 3; do setsid sh -c 'exec sleep 777123' & done; echo started",
    "hidden daemon": "(setsid sh -c 'setsid sleep 777123 & exit' &) ; sleep 0.1; exit 0",
    "stopped children": "sleep 777123 & kill -STOP $!; exit 3",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_of_a_command_is_left(sandbox: Sandbox, name: str) -> None:
    if not counts_processes(sandbox):
        pytest.skip("commands are refused where nothing counts processes")
    limits = replace(QUICK, wall_seconds=1.0, processes=32)
    reply = sandbox.run(CommandJob(argv=("sh", "-c", COMMANDS[name]), limits=limits))
    assert reply.status in (Status.FINISHED, Status.TIMEOUT)
    assert processes_of("777123") == [] and goes_on(sandbox)


def test_a_command_wins_nothing_either(sandbox: Sandbox, world: World) -> None:
    if not counts_processes(sandbox):
        pytest.skip("commands are refused where nothing counts processes")
    before = world.state()
    script = """
cat @CANARY@/secret; echo x > @CANARY@/written; rm @CANARY@/secret; ln -s @CANARY@ way; cat way/*
kill -USR1 @CALLER@; cat /proc/@CALLER@/environ; cat /proc/1/environ; ls @CANARY@
chmod 777 @CANARY@/secret
unshare -Ur true && echo SECRET; mount -t tmpfs x . && echo SECRET; env | grep SECRET
"""
    reply = sandbox.run(CommandJob(argv=("sh", "-c", world.aim(script)), limits=QUICK))
    assert b"SECRET" not in reply.stdout and world.state() == before, reply


def shared_attacks() -> list[Any]:
    if not SHARED.exists():
        return []
    lines = [json.loads(line) for line in SHARED.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "iso"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not there")
def test_attacks_that_others_have_collected(sandbox: Sandbox, world: World) -> None:
    before, won = world.state(), {}
    (Path("/dev/shm") / f"other_job_{os.getpid()}").write_text("x")
    for attack in shared_attacks():
        program = attack["code"].replace("@@CANARY@@", "@CANARY@").replace("@@PORT@@", "@PORT@")
        program = program.replace("\\0h2canary", "\\0@ABSTRACT@")
        limits = replace(QUICK, wall_seconds=2.0)
        reply = sandbox.run(ScriptJob(source=world.aim(program), limits=limits))
        leaks = b"SECRET" in reply.stdout or reply.memory_mb > QUICK.memory_mb
        if leaks or reply.status is Status.ERROR or world.state() != before:
            won[attack["id"]] = (reply, world.state())
    (Path("/dev/shm") / f"other_job_{os.getpid()}").unlink()
    look = sandbox.run(ScriptJob(source="import h2shadow_canary"))
    assert not won and b"ModuleNotFoundError" in look.stderr


def interpreter_for_others() -> str:
    """A Python of this version that an ordinary user can start; skips where there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for program in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        result = subprocess.run(
            [program, "-c", "import ssl, sqlite3"], user=65534, group=65534, extra_groups=[],
            capture_output=True, cwd="/",
        ) if os.access(program, os.X_OK) and _is_open(program) else None  # fmt: skip
        if result is not None and result.returncode == 0:
            return program
    pytest.skip("no Python that an ordinary user can start")


def _is_open(program: str) -> bool:
    return all(path.stat().st_mode & 0o5 == 0o5 for path in Path(program).parents)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_all_of_this_holds_for_an_ordinary_user(tmp_path: Path) -> None:
    program = interpreter_for_others()
    here = Path(__file__).resolve()
    paths = [ROOT, ROOT / "verifiers", *(p for p in sys.path if p.endswith("site-packages"))]
    tests = f"{here}::test_nothing_is_won", f"{here}::test_nothing_of_a_command_is_left"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments],
            user=65534, group=65534, extra_groups=[], cwd="/", env=environment,
            capture_output=True, text=True,
        )  # fmt: skip

    if as_nobody("-c", "import pytest, grpo_verifiers").returncode != 0:
        pytest.skip("an ordinary user cannot read this environment or this folder")
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-rs", f"--rootdir={ROOT}")
    result = as_nobody("-m", "pytest", *options, f"--config-file={ROOT}/pyproject.toml", *tests)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "passed" in result.stdout
