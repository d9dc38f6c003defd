"""`grpo explain`: how a completion of a run came by its advantage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from grpo_core.cli.common import json_option, plain_table, plugin_option, plugin_sources, safe
from grpo_core.cli.panel import STYLES
from grpo_core.config import RunConfig
from grpo_core.errors import DataError
from grpo_core.plugin_manager import load_plugins
from grpo_core.records.files import dump_json
from grpo_core.records.formats import MISSING, compact, percent
from grpo_core.records.run_directory import RunDirectory
from grpo_core.types import RolloutGroup, Verdict
from grpo_core.validation import build

if TYPE_CHECKING:
    from grpo_core.evaluation.explain import Component, ExplainedGroup, ExplainedRollout

_PROMPT, _COMPLETION, _REASON = 600, 1200, 300  # characters shown


@click.command()
@click.argument("run", type=Path)
@click.option("--step", type=click.IntRange(1), help="By default the last recorded one.")
@click.option("--prompt", "prompt_id", metavar="ID", help="Without it, prompts are listed.")
@click.option("--index", type=click.IntRange(0), help="Only this completion of the group.")
@plugin_option
@json_option
def explain(
    run: Path,
    step: int | None,
    prompt_id: str | None,
    index: int | None,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how completions came by their advantages.

    RUN is the folder of the run. Shows, for each completion, the verdicts, the reward components
    with their weights, the reward, the group's mean that it is compared with, and the advantage.
    """
    if index is not None and prompt_id is None:
        raise click.UsageError("--index needs --prompt ID; without it, prompts are listed.")
    directory = RunDirectory.open(run)
    step = _step(step, directory.rollout_steps)
    groups = directory.read_rollouts(step)
    if prompt_id is None:
        _list_prompts(groups, as_json)
        return
    from grpo_core.evaluation.explain import explain_groups
    from grpo_core.evaluation.rescore import rewarding_verifiers
    from grpo_core.step_advantages import bind_estimator

    config = build(RunConfig, directory.read_config())
    estimators = load_plugins(plugin_sources(plugin_files)).advantages
    registration = estimators[config.grpo.advantage]
    rewarded = rewarding_verifiers(config, groups)
    estimator = bind_estimator(registration.load(), [*rewarded, *config.shapers])
    explained = explain_groups(groups, prompt_id, config, estimator)
    for group in explained:
        if index is not None and index >= len(group.rollouts):
            raise DataError(f"--index must be below {len(group.rollouts)}, got {index}.")
    if as_json:
        click.echo(dump_json([asdict(group) for group in explained]))
        return
    console = Console()
    for group in explained:
        _show(group, registration.summary, index, console)


def _step(step: int | None, recorded: Sequence[int]) -> int:
    if not recorded:
        raise DataError("the run has no recorded steps yet.")
    if step is not None and step not in recorded:
        raise DataError(
            f"step {step} is not recorded; the run has steps {recorded[0]} to {recorded[-1]}."
        )
    return step or recorded[-1]


def _list_prompts(groups: Sequence[RolloutGroup], as_json: bool) -> None:
    rows = [_prompt_row(group) for group in groups]
    if as_json:
        click.echo(dump_json(rows))
        return
    table = plain_table("prompt", "correct", "mean reward", "advantages", "", numbers=(1, 2))
    for group, row in zip(groups, rows, strict=True):
        table.add_row(
            safe(row["prompt_id"]),
            percent(row["correct"]),
            compact(row["mean_reward"]),
            f"{row['lowest_advantage']:+.2f} to {row['highest_advantage']:+.2f}",
            safe(" ".join(group.prompt.text.split())[:60]),
        )
    console = Console()
    console.print(f"step {groups[0].step}; --prompt ID explains a prompt's completions")
    console.print(table)


def _prompt_row(group: RolloutGroup) -> dict:
    judged = [r.judgement.is_correct for r in group.rollouts if r.judgement.status.is_candidates]
    rewards = [rollout.reward for rollout in group.rollouts if rollout.reward is not None]
    advantages = [rollout.advantage for rollout in group.rollouts]
    return {
        "prompt_id": group.prompt.id,
        "correct": sum(judged) / len(judged) if judged else None,
        "mean_reward": sum(rewards) / len(rewards) if rewards else None,
        "lowest_advantage": min(advantages),
        "highest_advantage": max(advantages),
    }


def _show(group: ExplainedGroup, summary: str, index: int | None, console: Console) -> None:
    console.rule(safe(f"step {group.step}, prompt {group.prompt_id}", "bold"), align="left")
    console.print(safe(group.prompt[:_PROMPT]))
    console.print(safe(f"reference: {dump_json(group.reference)[:_PROMPT]}", "dim"))
    console.print()
    for rollout in group.rollouts:
        if index is None or rollout.index == index:
            _show_rollout(rollout, group, console, full=index is not None)
    console.print(
        f"group: {group.num_valid} of {len(group.rollouts)} valid, "
        f"mean {_number(group.mean)}, deviation {_number(group.std)} (population)"
    )
    console.print(safe(f"estimator '{group.estimator}': {summary}"))
    if not group.is_trained:
        console.print("the group was replaced for lack of signal and not trained on")
    if group.kl_in is not None:
        console.print(f"the KL to the reference was subtracted from the {group.kl_in}, too")
    elif not group.is_reproduced:
        console.print(
            "warning: asked again, the estimator gives other advantages than the recorded ones; "
            "was it changed since?"
        )


def _show_rollout(
    rollout: ExplainedRollout, group: ExplainedGroup, console: Console, *, full: bool
) -> None:
    head = Text(f"completion {rollout.index}", style="bold")
    head.append(f"  {rollout.num_tokens} tokens, ended by {rollout.finish_reason}", style="dim")
    console.print(head)
    if full:
        console.print(safe(rollout.completion[:_COMPLETION]))
    for name, verdict in rollout.verdicts.items():
        console.print(_verdict(name, verdict))
    for component in rollout.components:
        console.print(_component(component))
    if rollout.reward is None:
        console.print("  reward       none: a verdict is missing, so it is left out of the group")
    else:
        console.print(f"  reward       {rollout.reward:+.4f}")
        shift = _number(rollout.deviation_from_mean)
        console.print(f"  baseline     {_number(group.mean)} (mean of the group), above it {shift}")
    console.print(f"  advantage    {rollout.advantage:+.4f}{_by_steps(rollout)}")
    console.print()


def _by_steps(rollout: ExplainedRollout) -> str:
    parts = [f"{value:+.4f} to token {last}" for last, value in rollout.steps]
    return f" (mean of tokens: {', '.join(parts)})" if parts else ""


def _verdict(name: str, verdict: Verdict) -> Text:
    text = Text("  verdict      ")
    text.append_text(safe(f"{name} {verdict.version}: "))
    text.append(str(verdict.status), style=STYLES[verdict.status])
    if verdict.score is not None:
        text.append(f", score {verdict.score:g}")
    if verdict.reason:
        text.append_text(safe(f" ({verdict.reason[:_REASON]})", "dim"))
    return text


def _component(component: Component) -> Text:
    value = MISSING if component.value is None else f"{component.value:g}"
    return safe(
        f"  component    {component.name} ({component.kind}): {component.weight:g} x {value} = "
        f"{component.contribution:+.4f}"
    )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.4f}"
