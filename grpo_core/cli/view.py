"""The terminal's view of a run: a plugin like any other, which only observes.

A live panel when standard output is a terminal, else one plain line for each step and evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.live import Live

from grpo_core.cli.panel import evaluation_line, live_panel, step_line, summary_table
from grpo_core.cli.progress import Progress
from grpo_core.hookspecs import hookimpl
from grpo_core.records.text import printable
from grpo_core.types import RolloutGroup


class _LastingConsole(Console):
    """A console that falls silent when nobody reads it any more; the run goes on.

    With `grpo train | tee log` a Ctrl-C ends tee, too, and the checkpoint is still to be written.
    """

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):  # rich points standard output at /dev/null, then exits
            super().on_broken_pipe()


_REFRESH = 4  # pictures a second; more would cost the run time on small machines


class TerminalView:
    """Shows a run in the terminal.

    Args:
        console: where to; by default standard output.
        live: whether to draw a panel; by default when that is a terminal.
    """

    def __init__(self, console: Console | None = None, live: bool | None = None) -> None:
        self.console = console or _LastingConsole(highlight=False)
        self.progress = Progress()
        self._is_live = self.console.is_terminal if live is None else live
        self._live: Live | None = None

    def __repr__(self) -> str:
        return "grpo_core.cli.view.TerminalView"  # read in the manifest, as the plugin's origin

    @hookimpl
    def grpo_run_started(self, run_directory: str, config: Mapping[str, Any]) -> None:
        """Open the panel."""
        self.progress.start(run_directory, config)
        if self._is_live:
            self._live = Live(
                get_renderable=lambda: live_panel(self.progress),
                console=self.console,
                refresh_per_second=_REFRESH,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start()
        else:
            self._line(f"run {run_directory}: {self.progress.task}, {self.progress.model}")

    @hookimpl
    def grpo_progress(self, phase: str, done: int, total: int) -> None:
        """Move the bar; the panel redraws itself."""
        self.progress.enter(phase, done, total)

    @hookimpl
    def grpo_rollouts_scored(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Show one of the completions."""
        self.progress.choose_sample(step, groups)

    @hookimpl
    def grpo_step_finished(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the step's numbers."""
        self.progress.metrics.append({"step": step, **metrics})
        if self._live is None:
            self._line(step_line(self.progress))

    @hookimpl
    def grpo_alarm_raised(self, step: int, name: str, message: str) -> None:
        """Show it, at once and for as long as the panel lasts."""
        self.progress.alarms.append((step, name))
        self._line(f"ALARM after step {step}, {name}: {message}")

    @hookimpl
    def grpo_evaluation_finished(self, step: int, result: Mapping[str, Any]) -> None:
        """Show the pass rate."""
        self.progress.evaluations.append({"step": step, **result})
        self._line(evaluation_line(self.progress.evaluations[-1]))

    @hookimpl
    def grpo_run_finished(self, summary: Mapping[str, Any]) -> None:
        """Close the panel and show how the run ended."""
        self.close()
        if self.progress.metrics and self._is_live:
            self._line(step_line(self.progress))
        self.console.print()
        self.console.print(summary_table(summary))
        if summary.get("error"):
            self._line(f"error: {summary['error']}")
        if summary.get("checkpoint"):
            self._line(f"checkpoint: {summary['checkpoint']}")
        if self.progress.directory:
            self._line(f"run: {self.progress.directory}")

    def close(self) -> None:
        """Give the terminal back; safe to call twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _line(self, text: str) -> None:
        """One line, never wrapped, free of markup and control characters."""
        line = printable(text).replace("\n", " ")
        self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)
