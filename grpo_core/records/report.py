"""report.html: one file that shows a run, from whatever the run directory holds.

Everything in it is untrusted: the template escapes each value, and the page's own policy forbids
scripts and network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grpo_core.records.caveats import find_caveats
from grpo_core.records.examples import Examples, pick_examples
from grpo_core.records.files import write_text
from grpo_core.records.formats import (
    count,
    duration,
    interval,
    mean,
    number,
    percent,
    submap,
)
from grpo_core.records.pictures import metric_charts, pass_rate_chart
from grpo_core.records.run_directory import RunDirectory
from grpo_core.records.text import printable, redact
from grpo_core.types import Json, Status

_PHASES = ("sample", "verify", "train")
Line = Mapping[str, Json]


def write_report(directory: RunDirectory, summary: Line | None = None) -> Path:
    """Build report.html anew and return its path.

    Args:
        directory: of the run.
        summary: how it ended, where summary.json does not say so yet.

    Raises:
        CheckpointError: if a file of the run is damaged or the page cannot be written.
    """
    write_text(directory.report, render_report(directory, summary))
    return directory.report


def render_report(directory: RunDirectory, summary: Line | None = None) -> str:
    """The page as text; sections without data are left out."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, count=count, duration=duration, interval=interval, mean=mean
    )
    return environment.get_template("report.html.jinja").render(_context(directory, summary))


def _context(directory: RunDirectory, summary: Line | None) -> dict[str, Any]:
    config = directory.read_config()
    manifest, summary = directory.read_manifest(), summary or directory.read_summary()
    metrics, evaluations = directory.read_metrics(), directory.read_evaluations()
    alarms = directory.read_alarms()
    before, after = _ends(summary, evaluations)
    return {
        "name": printable(directory.path.resolve().name),
        "summary": summary,
        "status": str(summary.get("status", "not finished")),
        "error": printable(redact(str(summary.get("error") or ""))),
        "before": before,
        "after": after,
        "facts": _facts(config, summary, metrics),
        "hero": pass_rate_chart(metrics, evaluations),
        "charts": metric_charts(metrics),
        "statuses": _status_table(metrics, before, after),
        "pass_at_k": _pass_at_k(before, after),
        "levels": _levels(before, after),
        "phases": _phases(metrics),
        "examples": _examples(directory, before, after),
        "plugins": _mappings(manifest.get("plugins")),
        "verifiers": _mappings(manifest.get("verifiers")),
        "machine": _machine(manifest),
        "config": redact(printable(json.dumps(config, indent=2, ensure_ascii=False))),
        "alarms": _alarms(alarms),
        "warnings": find_caveats(metrics, summary, manifest, before, after, alarms),
    }


def _ends(summary: Line, evaluations: Sequence[Line]) -> tuple[Line | None, Line | None]:
    """The evaluations before and after training; None for one that was not taken.

    An evaluation of fewer prompts in the middle of an interrupted run is no "after".
    """
    evaluations = [line for line in evaluations if "pass_at_1" in line]
    before = next((line for line in evaluations if line.get("step") == 0), None)
    later = [line for line in evaluations if line.get("step") != 0]
    after = later[-1] if later else None
    if before and after and before.get("num_prompts") != after.get("num_prompts"):
        after = None
    if before is None and isinstance(summary.get("pass_at_1_before"), dict):
        before = {"step": 0, "pass_at_1": summary["pass_at_1_before"]}
    if after is None and isinstance(summary.get("pass_at_1_after"), dict):
        after = {"step": summary.get("steps"), "pass_at_1": summary["pass_at_1_after"]}
    return before, after


def _facts(config: Line, summary: Line, metrics: Sequence[Line]) -> list[tuple[str, str]]:
    """The settings that matter most, and what the run took."""
    grpo, trainer, sampling = (submap(config, key) for key in ("grpo", "trainer", "sampling"))
    task, evaluation = submap(config, "task"), submap(config, "evaluation")
    options = ", ".join(f"{key} {value}" for key, value in submap(task, "options").items())
    facts = [
        ("Model", submap(config, "model").get("path", summary.get("model"))),
        ("Task", " · ".join(filter(None, [str(task.get("name", "")), options]))),
        ("Steps", f"{len(metrics)} of {trainer.get('steps', '?')}"),
        ("Batch", f"{grpo.get('prompts_per_step', '?')} prompts × {grpo.get('group_size', '?')}"),
        ("Loss", f"{grpo.get('loss', '?')}, {grpo.get('aggregation', '?')}"),
        ("Advantage", grpo.get("advantage")),
        ("KL weight", grpo.get("beta")),
        ("Learning rate", trainer.get("learning_rate")),
        (
            "Sampling",
            f"temperature {sampling.get('temperature', '?')}, "
            f"at most {sampling.get('max_new_tokens', '?')} tokens",
        ),
        (
            "Evaluation",
            f"{evaluation.get('num_prompts', '?')} prompts × {evaluation.get('num_samples', '?')}",
        ),
        ("Seed", config.get("seed")),
        ("Time", duration(summary.get("seconds"))),
        ("Tokens", count(summary.get("tokens") or sum(_values(metrics, "tokens")) or None)),
    ]
    return [
        (name, printable(redact(str(value)), 200))
        for name, value in facts
        if value not in (None, "")
    ]


def _status_table(
    metrics: Sequence[Line], before: Line | None, after: Line | None
) -> list[dict[str, Any]]:
    """Shares of each status: evaluation before, evaluation after, and all of training."""
    training = {str(status): sum(_values(metrics, f"status_{status}")) for status in Status}
    columns: dict[str, Mapping[str, Json]] = {
        "before": submap(before or {}, "statuses"),
        "after": submap(after or {}, "statuses"),
        "training": training,
    }
    rows = []
    for status in Status:
        row: dict[str, Any] = {"status": str(status)}
        for name, counts in columns.items():
            total = sum(number(value) or 0.0 for value in counts.values())
            found = number(counts.get(str(status))) or 0.0
            row[name] = (found, found / total) if total else None
        rows.append(row)
    filled = any(row[name] for row in rows for name in columns)
    return rows if filled else []


def _pass_at_k(before: Line | None, after: Line | None) -> list[tuple[str, Any, Any]]:
    first, last = (submap(line or {}, "pass_at_k") for line in (before, after))
    keys = sorted({*first, *last}, key=lambda key: (len(key), key))
    return [(key, first.get(key), last.get(key)) for key in keys]


def _levels(before: Line | None, after: Line | None) -> list[tuple[str, Any, Any]]:
    first, last = (submap(line or {}, "by_level") for line in (before, after))

    def rate(levels: Mapping[str, Json], level: str) -> Json:
        found = levels.get(level)
        return found.get("pass_at_1", found) if isinstance(found, Mapping) else found

    levels = dict.fromkeys([*first, *last])
    return [(printable(level, 80), rate(first, level), rate(last, level)) for level in levels]


def _phases(metrics: Sequence[Line]) -> list[tuple[str, float, float, float]]:
    """(phase, seconds, share of all, seconds a step); what no phase claims is "other"."""
    total = sum(_values(metrics, "seconds"))
    if not total:
        return []
    phases = [(phase, sum(_values(metrics, f"seconds_{phase}"))) for phase in _PHASES]
    other = total - sum(seconds for _, seconds in phases)
    if other > 0:
        phases.append(("other", other))
    return [(name, used, used / total, used / len(metrics)) for name, used in phases]


def _examples(directory: RunDirectory, before: Line | None, after: Line | None) -> Examples:
    steps = [line.get("step") if line else None for line in (before, after)]
    groups = [
        directory.read_evaluation_rollouts(step) if isinstance(step, int) else [] for step in steps
    ]
    return pick_examples(groups[0], groups[1])


def _alarms(alarms: Sequence[Line]) -> list[tuple[str, str, str]]:
    """(step, name, message) of each."""
    return [
        (
            count(line.get("step")),
            printable(str(line.get("name", "?")), 80),
            printable(redact(str(line.get("message", ""))), 2000),
        )
        for line in alarms
    ]


def _machine(manifest: Line) -> list[tuple[str, str]]:
    hardware, git = submap(manifest, "hardware"), submap(manifest, "git")
    memory = number(hardware.get("memory_mb"))
    facts = [
        ("Started", manifest.get("started")),
        ("Processor", f"{hardware.get('cpu')}, {hardware.get('cores')} cores" if hardware else ""),
        ("Memory", f"{memory / 1024:.0f} GiB" if memory else ""),
        ("GPU", "; ".join(map(str, hardware.get("gpus") or []))),
        ("grpo-core", manifest.get("grpo_core")),
        ("Python", manifest.get("python")),
        ("Packages", ", ".join(f"{k} {v}" for k, v in submap(manifest, "packages").items())),
        ("Git", f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}" if git else ""),
        ("Command", " ".join(map(str, manifest.get("command") or []))),
    ]
    return [(name, redact(printable(str(value), 600))) for name, value in facts if value]


def _values(metrics: Sequence[Line], key: str) -> list[float]:
    return [value for line in metrics if (value := number(line.get(key))) is not None]


def _mappings(value: Json) -> list[Mapping[str, Json]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
