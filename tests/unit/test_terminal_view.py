"""The terminal view, live and plain, on ordinary and on hostile text."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from grpo_core.cli.panel import live_panel, step_line
from grpo_core.cli.progress import Progress, sparkline
from grpo_core.cli.view import TerminalView
from grpo_core.plugin_manager import create_plugin_manager
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict

CONFIG = {
    "model": {"path": "some/model"},
    "task": {"name": "arithmetic"},
    "trainer": {"steps": 3},
}
METRICS = {
    "reward_mean": 0.4125,
    "pass_rate": 0.5,
    "zero_signal_share": 0.25,
    "completion_length_mean": 38.2,
    "truncated_share": 0.03,
    "tokens_per_second": 214.3,
    "seconds": 10.0,
    "status_correct": 32,
    "status_wrong": 30,
    "status_error": 2,
}
ESTIMATE = {"mean": 0.5, "low": 0.4, "high": 0.6}
EVALUATION = {"pass_at_1": ESTIMATE, "num_prompts": 128, "num_samples": 4}
SUMMARY = {
    "status": "finished",
    "steps": 3,
    "pass_at_1_before": {"mean": 0.02, "low": 0.01, "high": 0.04},
    "pass_at_1_after": ESTIMATE,
    "best": {"step": 3, "pass_at_1": 0.5},
    "seconds": 61.0,
    "tokens": 5600,
    "checkpoint": "runs/x/checkpoints/step-000003",
}


def groups(text: str = "97", prompt: str = "71 + 26?", reason: str = "yes") -> list[RolloutGroup]:
    verdict = Verdict.correct(reason)
    rollout = Rollout(Completion((1,), text, (0.0,), "eos"), {"v": verdict}, {}, 1.0, 1.3)
    return [RolloutGroup(Prompt("p", ({"role": "user", "content": prompt},), 1), (), (rollout,))]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=50, color_system=None)


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80, highlight=False)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def play(view: TerminalView, **texts: str) -> None:
    """A whole run through the plugin manager, as the loop tells it."""
    hook = create_plugin_manager([view], entry_points=False).hook
    hook.grpo_run_started(run_directory="runs/x", config=CONFIG)
    hook.grpo_progress(phase="evaluate", done=1, total=2)
    hook.grpo_evaluation_finished(step=0, result=EVALUATION)
    for step in (1, 2):
        hook.grpo_progress(phase="sample", done=3, total=64)
        hook.grpo_rollouts_scored(step=step, groups=groups(**texts))
        hook.grpo_step_finished(step=step, metrics={"step": step, **METRICS})
    hook.grpo_run_finished(summary=SUMMARY)


def test_plain_lines_when_not_a_terminal() -> None:
    console = log()
    play(TerminalView(console))
    lines = written(console).splitlines()
    assert lines[0] == "run runs/x: arithmetic, some/model"
    assert lines[1] == (
        "evaluation after step 0: pass@1 50.0% (40.0% to 60.0%) on 128 prompts x 4 samples"
    )
    assert lines[2] == (
        "step 1/3  reward 0.412  pass 50.0%  zero-signal 25.0%  length 38.2  truncated 3.0%  "
        "214 tok/s  10 s  left 20 s  error 2"
    )
    assert lines[3].startswith("step 2/3 ")
    assert "\x1b" not in written(console)


def test_summary_shows_before_and_after() -> None:
    console = log()
    play(TerminalView(console))
    shown = re.sub(" +", " ", written(console))
    assert "held-out pass@1, before 2.0% 1.0% to 4.0%" in shown
    assert "held-out pass@1, after 50.0% 40.0% to 60.0%" in shown
    assert "checkpoint: runs/x/checkpoints/step-000003" in shown
    assert "1 min 01 s" in shown and "finished after 3 steps" in shown


def test_live_panel_on_a_terminal() -> None:
    console = terminal()
    view = TerminalView(console)
    play(view)
    assert view._live is None  # the terminal was given back
    shown = written(console)
    assert "some/model" in shown and "held-out pass@1" in shown


def test_panel_shows_everything() -> None:
    progress = Progress()
    progress.start("runs/x", CONFIG)
    progress.metrics.append({"step": 1, **METRICS})
    progress.evaluations.append({"step": 0, **EVALUATION})
    progress.choose_sample(1, groups())
    progress.enter("sample", 3, 64)
    console = terminal()
    console.print(live_panel(progress))
    for expected in (
        "1 of 3", "0.412", "50.0%", "25.0% without signal", "38.2 tokens long, 3.0% truncated",
        "32 correct", "2 error", "214 tokens/s, 20 s left", "sampling", "3/64", "runs/x",
        "71 + 26?", "reward 1", "advantage +1.30", "held-out pass@1 after step 0",
    ):  # fmt: skip
        assert expected in written(console), expected


def test_panel_before_anything_happened() -> None:
    console = terminal()
    console.print(live_panel(Progress()))
    assert "starting" in written(console)
    assert step_line(Progress()).startswith("step 0/?")


def test_hostile_text_reaches_the_terminal_disarmed() -> None:
    hostile = "[bold red]x[/] [/nope] \x1b]0;title\x07\x1b[2J\x9b31m \u202eevil \ud800 :smile:"
    for console in (terminal(), log()):
        view = TerminalView(console)
        view.grpo_run_started(run_directory=hostile, config={"task": {"name": hostile}})
        view.grpo_rollouts_scored(step=0, groups=groups(hostile, hostile, hostile))
        console.print(live_panel(view.progress))
        view.grpo_evaluation_finished(step=0, result={"num_prompts": hostile})
        view.grpo_run_finished(summary={"checkpoint": hostile, "error": hostile, "status": hostile})
        shown = written(console)
        shown.encode()
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.replace("\x1b[2J", "HIT"))
        assert "HIT" not in shown and "\x1b" not in shown and "\x07" not in shown
        assert "\u202e" not in shown and "\x9b" not in shown
        assert "[bold red]x[/]" in shown and ":smile:" in shown


@given(text=st.text(st.characters(), max_size=80))
def test_any_text_is_shown_without_raising(text: str) -> None:
    progress = Progress()
    progress.choose_sample(0, groups(text, text, text))
    console = terminal()
    console.print(live_panel(progress))


def test_long_completions_are_cut() -> None:
    progress = Progress()
    progress.choose_sample(0, groups("line\n" * 100_000))
    console = terminal()
    console.print(live_panel(progress))
    assert len(written(console).splitlines()) < 30


@pytest.mark.parametrize("summary", [{}, {"status": "failed", "error": "boom", "best": None}])
def test_summary_of_a_run_that_came_to_nothing(summary: dict[str, Any]) -> None:
    console = log()
    TerminalView(console).grpo_run_finished(summary=summary)
    assert "held-out pass@1, after" in written(console)


def test_odd_metrics_do_not_raise() -> None:
    progress = Progress()
    progress.start("x", {"trainer": {"steps": "many"}, "task": None})
    progress.metrics.append({"step": float("nan"), "reward_mean": float("inf"), "pass_rate": "x"})  # type: ignore[dict-item]
    console = terminal()
    console.print(live_panel(progress), step_line(progress))


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([0, 1, 0.5]) == "▁█▅"
    assert len(sparkline(range(100))) == 40


def test_close_is_safe_to_call_twice() -> None:
    view = TerminalView(terminal())
    view.grpo_run_started(run_directory="x", config={})
    view.close()
    view.close()


def test_a_reader_that_leaves_does_not_end_the_run() -> None:
    """`grpo train | head -1`: in a process of its own, for its standard output is given up."""
    code = (
        "import sys\nfrom grpo_core.cli.view import TerminalView\n"
        "view = TerminalView()\n"
        "for step in range(2000):\n    view.grpo_step_finished(step, {'reward_mean': 0.5})\n"
        "print('the end', file=sys.stderr)\n"
    )
    command = f'"{sys.executable}" -c "{code}" | head -1'
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("step 0/?")
    assert result.stderr == "the end\n"
