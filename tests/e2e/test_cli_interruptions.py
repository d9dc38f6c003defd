"""Ctrl-C, SIGTERM, and kill -9 at exact moments: nothing is lost, and a resume changes nothing."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cli_process import PLUGINS, Desk, assert_same_outcome, read_json, wait_until

SIGINT, SIGTERM, SIGKILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
TRAIN = (sys.executable, "-m", "grpo_core", "train", *PLUGINS, "--output", "run")
PAUSE = {"GRPO_TEST_AT": "update 2", "GRPO_TEST_DO": "pause"}
# Python ends itself by the signal when it was in the middle of an import; shells see 130 for both.
ENDED_BY_CTRL_C = (130, -SIGINT)
slow = pytest.mark.slow

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="orphans are looked for in /proc"
)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("moment", "number", "steps"),
    [
        ("update 2", SIGINT, 2),
        pytest.param("evaluate 0", SIGINT, 0, marks=slow),
        pytest.param("sample 1", SIGTERM, 0, marks=slow),
        pytest.param("sample 3", SIGINT, 2, marks=slow),
        pytest.param("evaluate 2", SIGTERM, 2, marks=slow),
        pytest.param("update 4", SIGTERM, 4, marks=slow),
        pytest.param("evaluate 4", SIGINT, 4, marks=slow),
    ],
)
def test_an_interrupted_run_goes_on_where_it_was(
    desk: Desk, whole_run: Path, moment: str, number: signal.Signals, steps: int
) -> None:
    result = desk.signal_at(moment, number, "--output", "a run")
    run = desk.path / "a run"
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    assert "stopping as soon as nothing is half done" in result.stderr
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["steps"]) == ("interrupted", steps)
    assert checkpoints(run) == ([f"step-{steps:06d}"] if steps else [])
    assert (run / "report.html").is_file()

    (command,) = re.findall(r"^interrupted; go on with: (.*)$", result.stderr, re.M)
    resumed = desk.run("sh", "-c", command)
    assert resumed.returncode == 0, resumed.stderr
    assert "moments_plugin" not in resumed.stderr  # no warning of a changed plugin
    assert_same_outcome(run, whole_run)


def test_a_killed_run_goes_on_from_its_newest_checkpoint(desk: Desk, whole_run: Path) -> None:
    """Killed when the checkpoint of step 3 is all but complete."""
    every = ("--set", "trainer.save_every=1")
    result = desk.signal_at("save 3", SIGKILL, "--output", "run", *every)
    run = desk.path / "run"
    assert result.returncode == -SIGKILL
    assert checkpoints(run) == [".partial-step-000003", "step-000002"]

    resumed = desk.grpo("train", "--resume", "--output", "run", *PLUGINS)
    assert resumed.returncode == 0, resumed.stderr
    assert [line.split("  ")[0] for line in resumed.stdout.splitlines() if "tok/s" in line] == [
        "step 3/4", "step 4/4",
    ]  # fmt: skip
    assert checkpoints(run) == ["step-000004"]
    assert not list(run.rglob(".*"))
    assert_same_outcome(run, whole_run)


@slow
@pytest.mark.parametrize("moment", ["evaluate 0", "update 2", "step 3"])
def test_a_run_killed_without_a_checkpoint_begins_again(
    desk: Desk, whole_run: Path, moment: str
) -> None:
    result = desk.signal_at(moment, SIGKILL, "--output", "run")
    assert result.returncode == -SIGKILL
    resumed = desk.grpo("train", "--resume", "--output", "run", *PLUGINS)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_outcome(desk.path / "run", whole_run)


@slow
def test_ctrl_c_reaches_a_run_whose_log_is_piped(desk: Desk, whole_run: Path) -> None:
    """`grpo train 2>&1 | tee log`: Ctrl-C ends tee at once, and the checkpoint is still written."""
    pipeline = f"{shlex.join(TRAIN)} run.toml 2>&1 | tee log"
    process = desk.start("sh", "-c", pipeline, **PAUSE)
    wait_until((desk.path / "reached").exists)
    os.killpg(process.pid, SIGINT)
    wait_until(lambda: not any(found.endswith(" tee") for found in desk.processes()))
    (desk.path / "reached").unlink()
    desk.finish(process)
    summary = read_json(desk.path / "run" / "summary.json")
    assert (summary["status"], summary["steps"]) == ("interrupted", 2)
    assert "Traceback" not in (desk.path / "log").read_text()
    assert desk.run(*TRAIN, "--resume").returncode == 0
    assert_same_outcome(desk.path / "run", whole_run)


@slow
def test_ctrl_c_in_a_terminal(desk: Desk, whole_run: Path) -> None:
    """With the live panel: the terminal gets its cursor back, and the command to go on with."""
    screen, terminal = os.openpty()
    process = desk.start(*TRAIN, "run.toml", terminal=terminal, TERM="xterm", **PAUSE)
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the end of a terminal's output
        while part := os.read(screen, 1 << 16):
            shown += part
            if (desk.path / "reached").exists():
                os.killpg(process.pid, SIGINT)
                (desk.path / "reached").unlink()
    os.close(screen)
    assert desk.finish(process).returncode == 130
    text = shown.decode()
    assert "pass rate" in text and "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "interrupted after 2 steps" in text
    assert "interrupted; go on with: grpo train --resume --output run" in text
    assert desk.run(*TRAIN, "--resume").returncode == 0
    assert_same_outcome(desk.path / "run", whole_run)


@slow
def test_a_second_ctrl_c_ends_at_once(desk: Desk) -> None:
    process = desk.start(*TRAIN, "run.toml", **PAUSE)
    wait_until((desk.path / "reached").exists)
    os.killpg(process.pid, SIGINT)
    time.sleep(0.5)
    os.killpg(process.pid, SIGINT)  # the run still waits for `reached` to go
    result = desk.finish(process)
    assert result.returncode in ENDED_BY_CTRL_C and "Traceback" not in result.stderr
    assert checkpoints(desk.path / "run") == []  # the step was half done


@slow
def test_ctrl_c_before_the_run_has_begun(desk: Desk) -> None:
    """The folder can be used again: nothing was in it yet."""
    process = desk.start(*TRAIN, "run.toml")
    wait_until((desk.path / "run" / "checkpoints").exists)
    process.send_signal(SIGINT)
    result = desk.finish(process)
    assert result.returncode in ENDED_BY_CTRL_C and "Traceback" not in result.stderr
    has_begun = (desk.path / "run" / "config.json").exists()
    result = desk.run(*TRAIN, "--resume" if has_begun else "run.toml")
    assert result.returncode == 0, result.stderr
