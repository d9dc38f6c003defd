"""`grpo rescore`: what would another verifier have made of a run's completions?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from grpo_core.cli.common import json_option, plain_table, plugin_option, plugin_sources, safe
from grpo_core.cli.verifier_options import parse_options
from grpo_core.config import RunConfig, VerifierConfig
from grpo_core.errors import ConfigError, DataError
from grpo_core.plugin_manager import Plugins, load_plugins
from grpo_core.records.files import atomic_writer, dump_json
from grpo_core.records.formats import count, percent
from grpo_core.records.run_directory import RunDirectory
from grpo_core.types import Json, Verdict
from grpo_core.validation import build

if TYPE_CHECKING:
    from grpo_core.evaluation.rescore import Rescored, Rewarding

_SHOWN = 20  # changed completions in the table; --output has them all
_EXCERPT = 60  # characters


@click.command()
@click.argument("run", type=Path)
@click.option("--verifier", "name", required=True, help="Name of a registered verifier.")
@click.option(
    "--replace",
    "replaced",
    metavar="NAME",
    help="Whose verdicts make way; by default its own earlier ones, or the first verifier's.",
)
@click.option("--steps", metavar="A-B", help="Only these steps, such as 3 or 10-20.")
@click.option("--options", default="{}", metavar="JSON", help="The verifier's options.")
@click.option("--set-option", "pairs", multiple=True, metavar="KEY=VALUE", help="One option.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--output", type=Path, help="Write every changed completion as a JSON line.")
@plugin_option
@json_option
def rescore(
    run: Path,
    name: str,
    replaced: str | None,
    steps: str | None,
    options: str,
    pairs: tuple[str, ...],
    workers: int,
    output: Path | None,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Judge a run's completions again, and list the advantages that flip.

    RUN is the folder of the run, which is not changed. An advantage has flipped when its sign is
    another; it was gained or lost when there was none before or is none now.
    """
    from grpo_core.evaluation.rescore import choose_replaced, rescore_step
    from grpo_core.verification.pool import VerifierPool, VerifierSpec

    directory = RunDirectory.open(run)
    wanted = _steps(steps, directory.rollout_steps)
    sources = plugin_sources(plugin_files)
    plugins = load_plugins(sources)
    plugins.verifiers[name]  # an unknown name is refused before processes start
    rewarding = _rewarding(directory, plugins, wanted)
    replaced = choose_replaced(name, replaced, rewarding.verifiers)
    found: list[Rescored] = []
    # A verifier of the run judges as it did then, but for what the command line says.
    settings = rewarding.config.verification
    then = next(
        (v for v in rewarding.config.verifiers if v.name == name), VerifierConfig(name=name)
    )
    spec = VerifierSpec(name, {**then.options, **parse_options(options, pairs)}, then.deadline)
    with VerifierPool(
        [spec],
        sources,
        workers=workers,
        deadline=settings.deadline,
        memory_mb=settings.memory_mb,
    ) as pool:

        def judge(samples: Sequence) -> Sequence[Verdict]:
            return pool.verify(name, samples)

        for step in wanted:
            found += rescore_step(directory.read_rollouts(step), judge, replaced, rewarding)
    if output is not None:
        _write(output, found)
    summary = {**_summary(found, name, replaced, wanted), "options": dict(spec.options)}
    if as_json:
        click.echo(dump_json(summary))
    else:
        _show(summary, found, Console())


def _steps(text: str | None, recorded: Sequence[int]) -> list[int]:
    """The recorded steps that `--steps` names.

    Raises:
        ConfigError: if it is no step or range. DataError: if none of them is recorded.
    """
    first, last = 0, max(recorded, default=0)
    if text is not None:
        low, dash, high = text.partition("-")
        if not low.isdecimal() or not (high if dash else low).isdecimal():
            raise ConfigError(f"--steps must be a step or a range such as 10-20, got '{text}'.")
        first, last = int(low), int(high or low)
    chosen = [step for step in recorded if first <= step <= last]
    if not chosen:
        held = f"{recorded[0]} to {recorded[-1]}" if recorded else "no steps"
        raise DataError(f"no recorded step is among --steps {text}; the run has {held}.")
    return chosen


def _rewarding(directory: RunDirectory, plugins: Plugins, steps: Sequence[int]) -> Rewarding:
    from grpo_core.assembly import create_shapers
    from grpo_core.evaluation.rescore import Rewarding, rewarding_verifiers
    from grpo_core.step_advantages import bind_estimator

    config = build(RunConfig, directory.read_config())
    verifiers = rewarding_verifiers(config, directory.read_rollouts(steps[0]))
    shapers = create_shapers(config, plugins)
    registered = plugins.advantages[config.grpo.advantage].load()
    estimator = bind_estimator(registered, [*verifiers, *shapers])
    return Rewarding(config, verifiers, shapers, estimator)


def _summary(
    found: Sequence[Rescored], name: str, replaced: str, steps: Sequence[int]
) -> dict[str, Json]:
    from grpo_core.evaluation.rescore import transitions

    changes = Counter(item.change for item in found)
    return {
        "verifier": name,
        "version": found[0].new.version,
        "replaced": replaced,
        "replaced_version": found[0].old.version,
        "steps": [steps[0], steps[-1]],
        "completions": len(found),
        "verdicts": [
            {"old": old, "new": new, "count": number}
            for (old, new), number in sorted(transitions(found).items())
        ],
        "advantages": {
            kind: changes[kind] for kind in ("flipped", "gained", "lost", "changed", "same")
        },
        "not_reproduced": sum(not item.is_reproduced for item in found),
    }


def _show(summary: Mapping[str, Json], found: Sequence[Rescored], console: Console) -> None:
    first, last = summary["steps"]
    who = f"{summary['verifier']} {summary['version']}"
    whom = f"{summary['replaced']} {summary['replaced_version']}"
    console.print(
        safe(f"{who} in place of {whom}, steps {first} to {last}, ")
        + safe(f"{count(summary['completions'])} completions")
    )
    if summary["options"]:
        console.print(safe(f"options: {dump_json(summary['options'])}"))
    table = plain_table("recorded verdict", "new verdict", "completions", "share", numbers=(2, 3))
    for row in summary["verdicts"]:
        style = "" if row["old"] == row["new"] else "bold"
        share = percent(row["count"] / summary["completions"])
        table.add_row(row["old"], row["new"], count(row["count"]), share, style=style)
    console.print(table)
    changes = summary["advantages"]
    console.print(
        f"advantages: {changes['flipped']} flipped, {changes['gained']} gained, "
        f"{changes['lost']} lost, {changes['changed']} of another size, {changes['same']} the same"
    )
    if summary["not_reproduced"]:
        console.print(
            f"note: {summary['not_reproduced']} recorded advantages are not what the recorded "
            "verdicts give alone: a KL in reward or advantage, or a changed shaper. The comparison "
            "leaves that out on both sides."
        )
    _show_changed([item for item in found if item.change in ("flipped", "gained", "lost")], console)


def _show_changed(changed: Sequence[Rescored], console: Console) -> None:
    if not changed:
        return
    table = plain_table(
        "step", "prompt", "", "verdict", "advantage", "change", "reason", numbers=(0, 2)
    )
    order = sorted(changed, key=lambda item: -abs(item.after - item.before))
    for item in order[:_SHOWN]:
        table.add_row(
            str(item.step),
            safe(item.prompt_id),
            str(item.index),
            f"{item.old.status} > {item.new.status}",
            f"{item.before:+.2f} > {item.after:+.2f}",
            item.change,
            safe((item.new.reason or item.old.reason)[:_EXCERPT]),
        )
    console.print(table)
    if len(changed) > _SHOWN:
        console.print(f"... and {len(changed) - _SHOWN} more; --output FILE has all of them.")


def _write(path: Path, found: Sequence[Rescored]) -> None:
    with atomic_writer(path) as stream:
        for line in _lines(found):
            stream.write(line.encode("utf-8", "replace"))


def _lines(found: Sequence[Rescored]) -> Iterator[str]:
    for item in found:
        if item.change == "same" and item.old.status is item.new.status:
            continue
        fields = {
            "step": item.step,
            "prompt_id": item.prompt_id,
            "index": item.index,
            "change": item.change,
            "old": {"status": str(item.old.status), "reason": item.old.reason},
            "new": {"status": str(item.new.status), "reason": item.new.reason},
            "advantage_before": item.before,
            "advantage_after": item.after,
            "completion": item.completion,
        }
        yield dump_json(fields) + "\n"
