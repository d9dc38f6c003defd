"""`grpo eval`: the held-out pass rate of a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grpo_core.cli.common import (
    json_option,
    plain_table,
    plugin_option,
    plugin_sources,
    read_config,
    safe,
    set_option,
    with_overrides,
)
from grpo_core.cli.panel import STYLES
from grpo_core.config import RunConfig, resolved
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import Plugins, load_plugins
from grpo_core.records.files import dump_json
from grpo_core.records.formats import compact, count, duration, interval, mean, percent, submap
from grpo_core.records.manifest import build_manifest
from grpo_core.records.run_directory import RunDirectory
from grpo_core.types import Status


class EvaluationProgress:
    """A bar on standard error while an evaluation runs, when that is a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self._task = self._progress.add_task("evaluating", total=None)

    def __repr__(self) -> str:
        return "grpo_core.cli.eval.EvaluationProgress"  # its origin in the manifest

    @hookimpl
    def grpo_progress(self, phase: str, done: int, total: int) -> None:
        """Move the bar, which appears with the first completion."""
        self._progress.start()
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


@click.command("eval")
@click.option("--model", help="Hub id or local folder.  [required without --config]")
@click.option("--task", help="Name of a registered task.  [required without --config]")
@click.option("--config", type=Path, help="Take other settings from a TOML file or config.json.")
@click.option("--num-samples", type=click.IntRange(1), help="Completions for each prompt.")
@click.option("--num-prompts", type=click.IntRange(1), help="The first ones of the split.")
@click.option("--split", help="By default the task's own evaluation split.")
@click.option("--temperature", type=click.FloatRange(0), help="0 is greedy.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Length limit of a completion.")
@click.option("--seed", type=click.IntRange(0), help="Decides every draw.")
@set_option
@plugin_option
@click.option("--output", type=Path, metavar="DIR", help="Keep result and completions here.")
@json_option
def evaluate(
    config: Path | None,
    overrides: tuple[str, ...],
    plugin_files: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure the held-out pass rate of a model.

    Prints pass@1 and the unbiased pass@k for k = 1, 2, 4, ... with 95% intervals clustered by
    prompt. Completions that the verifier could not judge are left out and counted apart.
    """
    settings = evaluation_settings(config, flags, overrides)
    if output is not None:
        RunDirectory.check_new(output)
    sources = plugin_sources(plugin_files)
    progress = EvaluationProgress()
    plugins = load_plugins(sources, extra=[progress])
    plugins.tasks[settings.task.name]  # an unknown name is refused before torch is imported
    from grpo_core.evaluation.run import evaluate_model

    try:
        result, groups = evaluate_model(settings, plugins, sources)
    finally:
        progress.close()
    if output is not None:
        directory = RunDirectory.create(output, "")
        directory.write_config(resolved(settings))
        directory.write_manifest(_manifest(settings, plugins))
        directory.write_evaluation(0, result, groups)
    if as_json:
        click.echo(dump_json(result))
    else:
        show_result(result, Console())


def evaluation_settings(
    config: Path | None, flags: Mapping[str, Any], overrides: tuple[str, ...]
) -> RunConfig:
    """The run's settings that the flags ask for; --set goes over both.

    Raises:
        ConfigError: if model or task is missing, or a setting is wrong.
    """
    if config is None:
        for name in ("model", "task"):
            if flags.get(name) is None:
                raise click.UsageError(f"Missing option '--{name}' (or give --config).")
    values = dict(resolved(read_config(config, ()))) if config else {}
    places = {
        "model": ("model", "path"),
        "task": ("task", "name"),
        "num_samples": ("evaluation", "num_samples"),
        "num_prompts": ("evaluation", "num_prompts"),
        "split": ("evaluation", "split"),
        "temperature": ("evaluation", "temperature"),
        "max_new_tokens": ("sampling", "max_new_tokens"),
    }
    for flag, (section, key) in places.items():
        if flags.get(flag) is not None:
            values[section] = {**values.get(section, {}), key: flags[flag]}
    if flags.get("seed") is not None:
        values["seed"] = flags["seed"]
    return with_overrides(values, overrides)


def show_result(result: Mapping[str, Any], console: Console) -> None:
    """pass@k with intervals, then what the completions were."""
    console.print(
        safe(
            f"{result.get('task')}, split {result.get('split')}: "
            f"{count(result.get('num_prompts'))} prompts × {count(result.get('num_samples'))} "
            f"samples, temperature {result.get('temperature')}",
            "bold",
        )
    )
    rates = plain_table("", "mean", "95% interval", numbers=(1,))
    passes = submap(result, "pass_at_k") or {"1": result.get("pass_at_1")}
    for k, estimate in passes.items():
        rates.add_row(safe(f"pass@{k}"), percent(mean(estimate)), interval(estimate))
    for level, estimate in submap(result, "by_level").items():
        rates.add_row(safe(f"pass@1, level {level}"), percent(mean(estimate)), interval(estimate))
    console.print(rates, "")
    statuses = submap(result, "statuses")
    total = sum(statuses.values()) or 1
    counts = plain_table("verdict", "count", "share", numbers=(1, 2))
    for status in Status:
        found = statuses.get(str(status), 0)
        counts.add_row(safe(status, STYLES[status]), count(found), percent(found / total))
    console.print(counts, "")
    console.print(
        f"truncated {percent(result.get('truncated_share'))}, "
        f"mean length {compact(result.get('completion_length_mean'))} tokens, "
        f"{duration(result.get('seconds'))}",
        highlight=False,
    )


def _manifest(settings: RunConfig, plugins: Plugins) -> dict[str, Any]:
    # imports torch
    from grpo_core.assembly import chosen_verifiers, create_task

    names = [item.name for item in chosen_verifiers(settings, create_task(settings, plugins))]
    verifiers = [{"name": name, "version": plugins.verifiers[name].version} for name in names]
    return build_manifest(plugins=plugins.infos, verifiers=verifiers, seed=settings.seed)
