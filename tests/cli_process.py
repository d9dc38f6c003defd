"""Run the `grpo` command as a user does: as a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from grpo_core.records.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
LETTERS = ROOT / "tests" / "integration" / "letter_plugin.py"
MOMENTS = ROOT / "tests" / "e2e" / "moments_plugin.py"
PLUGINS = ("--plugin", str(LETTERS), "--plugin", str(MOMENTS))
TIMEOUT = 120

CONFIG = """
[model]
path = "tiny"
[task]
name = "letters"
[sampling]
max_new_tokens = 8
[grpo]
group_size = 4
prompts_per_step = 4
loss = "grpo_at_moments"
[trainer]
dtype = "float32"
steps = 4
learning_rate = 1e-2
warmup_steps = 0
[[verifiers]]
name = "fragile"
[verification]
workers = 1
deadline = 10
[evaluation]
num_prompts = 8
num_samples = 2
every = 2
every_num_prompts = 4
"""

needs_entry_points = pytest.mark.skipif(
    not entry_points(group="grpo_core"),
    reason="grpo-core is not installed in this interpreter, so it has no entry points",
)


class Desk:
    """A folder with a tiny model, `run.toml`, and a `grpo` on the PATH.

    Attributes:
        path: the folder; commands run in it.
    """

    def __init__(self, path: Path, model: Path) -> None:
        self.path = path
        (path / "run.toml").write_text(CONFIG)
        (path / "tiny").symlink_to(model)
        programs = path / "bin"
        programs.mkdir()
        shim = programs / "grpo"
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m grpo_core "$@"\n')
        shim.chmod(0o755)
        ours = [ROOT, ROOT / "plugins", ROOT / "verifiers", ROOT / "tasks"]
        self._variables = {
            **os.environ,
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", "")]),
            "PYTHONPATH": os.pathsep.join([*map(str, ours), os.environ.get("PYTHONPATH", "")]),
            "GRPO_TEST_DESK": str(path),  # how `processes` finds them
            "COLUMNS": "100",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }

    def start(
        self, *command: str, terminal: int | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """Start a command line in a process group of its own.

        Args:
            terminal: a descriptor that its output goes to, instead of pipes.
            variables: of its environment.
        """
        return subprocess.Popen(
            command,
            cwd=self.path,
            env={**self._variables, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end, and make sure that nothing of it stays behind."""
        return self.finish(self.start(*command, **options))

    def grpo(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`python -m grpo_core ARGUMENTS`."""
        return self.run(sys.executable, "-m", "grpo_core", *arguments, **options)

    def train(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`grpo train run.toml` with the plugins that it needs."""
        return self.grpo("train", "run.toml", *PLUGINS, *arguments, **options)

    def signal_at(
        self, moment: str, number: signal.Signals, *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """As `train`; its process group gets the signal at that moment, see moments_plugin.py."""
        command = [sys.executable, "-m", "grpo_core", "train", "run.toml", *PLUGINS, *arguments]
        process = self.start(*command, GRPO_TEST_AT=moment, GRPO_TEST_DO="pause")
        reached = self.path / "reached"
        try:
            wait_until(lambda: reached.exists() or process.poll() is not None)
            assert reached.exists(), process.communicate()
            os.killpg(process.pid, number)
        finally:
            reached.unlink(missing_ok=True)
        return self.finish(process)

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for the end of a command and of all that it started."""
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"did not end: {process.communicate()}") from None
        wait_until(lambda: not self.processes(), seconds=10)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def processes(self) -> list[str]:
        """Process ids and names of what commands here started and is still alive."""
        mark = f"GRPO_TEST_DESK={self.path}\0".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    found.append(f"{folder.name} {(folder / 'comm').read_text().strip()}")
            except OSError:  # it is gone, or another user's
                continue
        return found

    def put(self, name: str, text: str) -> str:
        """Write a file here; returns its name."""
        (self.path / name).write_text(text)
        return name


def _heed_ctrl_c() -> None:
    """Shells have what they start in the background ignore it, and so this process, perhaps."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> None:
    """Poll a condition; it must come true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)


def outcome(path: Path) -> dict[str, Any]:
    """All that a run computed, without wall times: two runs are alike when these are equal."""
    directory = RunDirectory.open(path)
    summary = directory.read_summary()
    last = path / "checkpoints" / f"step-{summary['steps']:06d}"
    return {
        "summary": [summary[key] for key in ("status", "steps", "tokens", "best")],
        "rates": [summary["pass_at_1_before"], summary["pass_at_1_after"]],
        "metrics": [_timeless(line) for line in directory.read_metrics()],
        "evaluations": [_timeless(result) for result in directory.read_evaluations()],
        "rollouts": [directory.read_rollouts(step) for step in directory.rollout_steps],
        "weights": (last / "model.safetensors").read_bytes(),
        "moments": (last / "optimizer.safetensors").read_bytes(),
    }


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    """Without durations; verdicts' seconds stay out of metrics and evaluations anyway."""
    return {key: value for key, value in line.items() if "second" not in key}


def assert_same_outcome(one: Path, other: Path) -> None:
    """Bit by bit, wall times aside."""
    first, second = outcome(one), outcome(other)
    for key, value in first.items():
        if key == "rollouts":
            value, second[key] = (_without_seconds(groups) for groups in (value, second[key]))
        assert value == second[key], key


def _without_seconds(steps: Any) -> str:
    return re.sub(r"seconds=[-+.e\d]+", "", repr(steps))


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files of a folder with their content."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def has_user_namespaces() -> bool:
    """Whether this user may mount things in a namespace of their own."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--mount", "true"]
    return unshare is not None and subprocess.run(command, capture_output=True).returncode == 0
