"""Alarms in the run directory, in the report, and in the terminal."""

from __future__ import annotations

import io
import math
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from grpo_core.cli.panel import live_panel
from grpo_core.cli.view import TerminalView
from grpo_core.plugin_manager import create_plugin_manager
from grpo_core.records.caveats import find_caveats
from grpo_core.records.report import render_report
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.health import Alarm, alarms

EXPLOSION = Alarm("gradient_explosion", 3, 50.0, 10.0, "the norm is 50. Lower the rate.")
HOSTILE = Alarm("<b>", 5, 1.0, 1.0, "<script>alert(1)</script> \x1b[31m {{ 7 * 7 }}")


def run_in(folder: Path, *found: Alarm) -> RunDirectory:
    run = RunDirectory.create("run", folder)
    run.write_config({"seed": 1})
    for step in range(1, 7):
        run.append_metrics({"step": step, "reward_mean": 0.5})
    for alarm in found:
        run.append_alarm(asdict(alarm))
    return run


def test_alarms_are_stored_and_read_back(tmp_path: Path) -> None:
    run = run_in(tmp_path, EXPLOSION, HOSTILE)
    assert [Alarm(**line) for line in run.read_alarms()] == [EXPLOSION, HOSTILE]


def test_a_run_without_alarms_has_no_file_of_them(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.rewind(2)
    assert run.read_alarms() == []
    assert not (run.path / "alarms.jsonl").exists()


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    run = run_in(tmp_path, EXPLOSION)
    with (run.path / "alarms.jsonl").open("a") as stream:
        stream.write('{"name": "no_si')
    assert len(run.read_alarms()) == 1


def test_a_rewind_forgets_alarms_of_later_steps(tmp_path: Path) -> None:
    run = run_in(tmp_path, EXPLOSION, HOSTILE)
    run.rewind(3)
    assert [line["step"] for line in run.read_alarms()] == [3]
    assert [line["step"] for line in run.read_metrics()] == [1, 2, 3]
    run.rewind(2)
    assert run.read_alarms() == []


def test_a_resumed_run_raises_the_same(tmp_path: Path) -> None:
    """As the loop does it: metrics, then alarms about all metrics so far."""
    norms = [1.0] * 10 + [100.0] + [1.0] * 9

    def go_on(run: RunDirectory, first: int) -> None:
        for step in range(first, len(norms) + 1):
            run.append_metrics({"step": step, "grad_norm": norms[step - 1], "entropy": math.nan})
            for alarm in alarms(run.read_metrics()):
                run.append_alarm(asdict(alarm))

    whole, torn = (RunDirectory.create(name, tmp_path) for name in ("whole", "torn"))
    for run in (whole, torn):
        go_on(run, 1)
    for step in (15, 11, 10, 0):
        torn.rewind(step)
        go_on(torn, step + 1)
        assert torn.read_alarms() == whole.read_alarms()
    assert [(line["name"], line["step"]) for line in whole.read_alarms()] == [
        ("gradient_explosion", 11)
    ]


def test_the_report_lists_them_escaped(tmp_path: Path) -> None:
    page = render_report(run_in(tmp_path, EXPLOSION, HOSTILE))
    assert "<h2>Alarms</h2>" in page and "the norm is 50. Lower the rate." in page
    assert "<script" not in page and "\x1b" not in page and "{{ 7 * 7 }}" in page
    assert "2 alarms were raised about the training numbers: gradient_explosion" in page
    assert "Alarms</h2>" not in render_report(run_in(tmp_path / "other"))


def test_the_report_counts_them() -> None:
    lines = [asdict(EXPLOSION), asdict(EXPLOSION)]
    sentences = find_caveats([], {"status": "finished"}, {}, None, None, lines)
    assert any("2 alarms" in line and "gradient_explosion (2x)" in line for line in sentences)
    assert not any("alarm" in line for line in find_caveats([], {}, {}, None, None))


def view(live: bool) -> tuple[TerminalView, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=live, width=120, height=50, color_system=None)
    return TerminalView(console, live=live), stream


def test_the_terminal_shows_them_at_once() -> None:
    plain, stream = view(live=False)
    hook = create_plugin_manager([plain], entry_points=False).hook
    hook.grpo_alarm_raised(step=5, name="no_signal", message=HOSTILE.message + "\nnext")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ALARM after step 5, no_signal: <script>")
    assert "\x1b" not in stream.getvalue()


def test_the_panel_keeps_them() -> None:
    live, _ = view(live=True)
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(live_panel(live.progress))
    assert "alarms" not in console.file.getvalue()  # type: ignore[attr-defined]
    for step in range(3, 8):
        live.grpo_alarm_raised(step, "clipping", "x")
    console.print(live_panel(live.progress))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "clipping at step 7, 2 earlier" in text


def test_the_end_of_a_run_names_them() -> None:
    plain, stream = view(live=False)
    plain.grpo_run_finished({"status": "finished", "steps": 3, "alarms": {"clipping": 2}})
    assert "clipping 2" in stream.getvalue()
