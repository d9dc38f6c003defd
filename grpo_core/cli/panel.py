"""What the terminal shows of a run: a live panel, plain lines, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from grpo_core.cli.common import estimate_text, plain_table, safe
from grpo_core.cli.progress import Progress, sparkline
from grpo_core.records.formats import (
    MISSING,
    compact,
    count,
    duration,
    interval,
    mean,
    number,
    percent,
    submap,
)
from grpo_core.records.text import printable
from grpo_core.types import Prompt, Rollout, Status

STYLES = {
    Status.CORRECT: "green",
    Status.WRONG: "red",
    Status.UNPARSEABLE: "yellow",
    Status.ABSTAIN: "magenta",
    Status.TIMEOUT: "magenta",
    Status.ERROR: "bold magenta",
}
_PHASES = {"sample": "sampling", "train": "updating", "evaluate": "evaluating", "start": "starting"}
_PROMPT_LIMIT, _COMPLETION_LIMIT, _MOST_LINES = 200, 480, 6


def live_panel(progress: Progress) -> RenderableType:
    """Everything about the run at this moment."""
    parts: list[RenderableType] = [_figures(progress), Text(), _phase(progress)]
    if progress.evaluations:
        parts += [Text(), _evaluations(progress)]
    if progress.sample is not None:
        parts += [Text(), *_sample(*progress.sample)]
    title = f"{progress.task} · {progress.model}" if progress.task else "grpo"
    return Panel(
        Group(*parts),
        title=safe(title, "bold"),
        title_align="left",
        subtitle=safe(progress.directory, "dim"),
        subtitle_align="left",
        box=box.ROUNDED,
        border_style="dim",
        padding=(1, 2),
    )


def step_line(progress: Progress) -> str:
    """The last step in one line, for logs."""
    last = progress.last
    parts = [
        f"step {progress.step}/{progress.steps or '?'}",
        f"reward {compact(last('reward_mean'))}",
        f"pass {percent(last('pass_rate'))}",
        f"zero-signal {percent(last('zero_signal_share'))}",
        f"length {compact(last('completion_length_mean'))}",
        f"truncated {percent(last('truncated_share'))}",
        f"{compact(last('tokens_per_second'))} tok/s",
        f"{compact(last('seconds'))} s",
        f"left {duration(progress.seconds_left)}",
    ]
    if shadows := shadow_rates(progress):
        parts.append(f"shadows {shadows}")
    troubles = [status for status in Status if not status.is_candidates]
    parts += [f"{s} {count(n)}" for s in troubles if (n := last(f"status_{s}"))]
    return "  ".join(parts)


def shadow_rates(progress: Progress) -> str:
    """How often each verifier that only watches disagreed in the last step: "strict 3%"."""
    last = progress.metrics[-1] if progress.metrics else {}
    names = [key.split("/")[1] for key in last if key.endswith("/disagreement")]
    rates = [f"{name} {percent(progress.last(f'shadow/{name}/disagreement'))}" for name in names]
    return f"{', '.join(rates)} disagree" if rates else ""


def evaluation_line(result: Mapping[str, Any]) -> str:
    """An evaluation in one line."""
    return printable(
        f"evaluation after step {result.get('step', '?')}: "
        f"pass@1 {estimate_text(result.get('pass_at_1'))} on "
        f"{count(result.get('num_prompts'))} prompts x {count(result.get('num_samples'))} samples"
    )


def summary_table(summary: Mapping[str, Any]) -> Table:
    """How the run ended."""
    title = f"{summary.get('status', 'ended')} after {count(summary.get('steps'))} steps"
    table = plain_table(title, "", "95% interval", numbers=(1,))
    rows = [("before", summary.get("pass_at_1_before")), ("after", summary.get("pass_at_1_after"))]
    best = submap(summary, "best")
    if best:
        rows.append((f"best, step {count(best.get('step'))}", best.get("pass_at_1")))
    for name, value in rows:
        table.add_row(f"held-out pass@1, {name}", percent(mean(value)), interval(value))
    table.add_row("tokens", count(summary.get("tokens")), "")
    table.add_row("time", duration(summary.get("seconds")), "")
    alarms = submap(summary, "alarms")
    if alarms:
        names = ", ".join(f"{name} {count(times)}" for name, times in alarms.items())
        table.add_row("alarms", safe(names), "")
    return table


def _figures(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 3))
    last = progress.last
    reward = Text(compact(last("reward_mean")), style="bold")
    reward.append(f"  {sparkline(progress.values('reward_mean'))}", style="green")
    rate = Text(percent(last("pass_rate")), style="bold")
    rate.append(f"  {sparkline(progress.values('pass_rate'))}", style="cyan")
    table.add_row(_name("step"), f"{progress.step} of {progress.steps or '?'}")
    table.add_row(_name("reward"), reward)
    table.add_row(_name("pass rate"), rate)
    table.add_row(
        _name("groups"),
        f"{percent(last('zero_signal_share'))} without signal",
    )
    table.add_row(
        _name("completions"),
        f"{compact(last('completion_length_mean'))} tokens long, "
        f"{percent(last('truncated_share'))} truncated",
    )
    table.add_row(_name("verdicts"), _statuses(progress))
    if shadows := shadow_rates(progress):
        table.add_row(_name("shadows"), safe(shadows))
    speed = f"{compact(last('tokens_per_second'))} tokens/s"
    table.add_row(_name("speed"), f"{speed}, {duration(progress.seconds_left)} left")
    if progress.alarms:
        table.add_row(_name("alarms"), _alarms(progress))
    return table


def _name(text: str) -> Text:
    return Text(text, style="dim")


def _statuses(progress: Progress) -> Text:
    text = Text()
    for status, style in STYLES.items():
        found = progress.last(f"status_{status}")
        if found:
            text.append(f"{', ' if text else ''}{found:.0f} {status}", style=style)
    return text or Text(MISSING)


def _alarms(progress: Progress) -> Text:
    """The newest ones; their messages stand above the panel."""
    found = list(progress.alarms)
    text = ", ".join(f"{name} at step {step}" for step, name in found[-3:])
    earlier = f", {len(found) - 3} earlier" if len(found) > 3 else ""
    return safe(text + earlier, "bold red")


def _phase(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=12)
    table.add_column(ratio=1)
    table.add_column(justify="right")
    total = max(progress.total, 1)
    table.add_row(
        safe(_PHASES.get(progress.phase, progress.phase)),
        ProgressBar(total=total, completed=min(progress.done, total), complete_style="cyan"),
        f"{progress.done}/{progress.total}  {duration(time.monotonic() - progress.phase_started)}",
    )
    return table


def _evaluations(progress: Progress) -> Table:
    """The first evaluation and the newest two."""
    table = Table.grid(padding=(0, 3))
    found = list(progress.evaluations)
    for result in found[:1] + found[1:][-2:]:
        name = f"held-out pass@1 after step {count(result.get('step'))}"
        table.add_row(_name(name), estimate_text(result.get("pass_at_1")))
    return table


def _sample(prompt: Prompt, rollout: Rollout) -> list[RenderableType]:
    """One completion with its verdict and advantage, a few lines at most."""
    verdict = rollout.judgement if rollout.verdicts else None
    head = Text()
    if verdict is not None:
        head.append(str(verdict.status), style=STYLES[verdict.status])
        head.append(f"  {printable(verdict.reason, 120)}".replace("\n", " "), style="dim")
    reward = MISSING if rollout.reward is None else compact(rollout.reward)
    head.append(f"  reward {reward}  advantage {number(rollout.advantage) or 0:+.2f}")
    return [
        Text(printable(prompt.text, _PROMPT_LIMIT).replace("\n", " "), style="italic dim"),
        Text(_few_lines(rollout.completion.text)),
        head,
    ]


def _few_lines(text: str) -> str:
    lines = printable(text, _COMPLETION_LIMIT).split("\n")
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"… ({len(lines) - _MOST_LINES} more lines)"]
    return "\n".join(lines)
