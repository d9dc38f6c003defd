"""`grpo train`: check a run, then carry it out, or go on with one that was interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from grpo_core.cli.common import (
    plain_table,
    plugin_option,
    plugin_sources,
    read_config,
    safe,
    set_option,
)
from grpo_core.cli.exit_codes import INTERRUPTED, WRONG_INPUT
from grpo_core.cli.view import TerminalView
from grpo_core.config import RunConfig
from grpo_core.errors import CheckpointError, ConfigError, GrpoError
from grpo_core.plugin_manager import Plugins, PluginSources, load_plugins
from grpo_core.records.manifest import plugin_changes
from grpo_core.records.run_directory import DEFAULT_BASE, RunDirectory
from grpo_core.training.resume import check_same_run, is_finished

if TYPE_CHECKING:
    from grpo_core.training.preflight import Check
    from grpo_core.training.world import World

MAIN_JOB = Path(__file__).with_name("main_job.toml")


@click.command()
@click.argument("config", required=False, type=Path)
@click.option(
    "--output",
    type=Path,
    metavar="DIR",
    help=f"Folder of the run; by default a new one in {DEFAULT_BASE}/.",
)
@set_option
@plugin_option
@click.option("--resume", is_flag=True, help="Go on with the run in --output, or the newest one.")
@click.option(
    "--accept-plugin-changes",
    is_flag=True,
    help="Resume although plugins of the run have changed or are missing.",
)
@click.option("--dry-run", is_flag=True, help="Check everything, rehearse one step, and stop.")
def train(
    config: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    plugin_files: tuple[str, ...],
    resume: bool,
    accept_plugin_changes: bool,
    dry_run: bool,
) -> None:
    """Train a model with GRPO against verifiers.

    CONFIG is a TOML file. Without one the main job runs: SmolLM2-135M-Instruct learns arithmetic
    on this machine. A resumed run takes its own config unless CONFIG is given.

    Ctrl-C saves a checkpoint and ends; --resume goes on from there.

    Several processes share a model: torchrun --standalone --nproc-per-node N -m grpo_core train
    """
    from grpo_core.training.world import open_world

    with open_world() as world:
        if world.rank > 0:
            from grpo_core.training.follower import follow

            follow(world)
            return
        directory = _run_to_resume(output) if resume else None
        if directory is not None:
            config = config or directory.path / "config.json"
        elif output is not None and not dry_run:
            RunDirectory.check_new(output)
        settings = read_config(config or MAIN_JOB, overrides)
        if directory is not None and _is_done(directory, settings):
            return
        sources = plugin_sources(plugin_files)
        view = TerminalView()
        plugins = load_plugins(sources, extra=[view])
        if directory is not None:
            _compare_plugins(directory, plugins, accept_plugin_changes)
        _check(settings, plugins, sources, dry_run, world)
        if dry_run:
            return
        if directory is None:
            directory = RunDirectory.create() if output is None else RunDirectory.create(output, "")
        try:
            _carry_out(settings, plugins, sources, directory, resume, world)
        finally:
            view.close()


def _run_to_resume(output: Path | None) -> RunDirectory:
    if output is not None:
        return RunDirectory.open(output)
    directory = RunDirectory.newest()
    click.echo(f"resuming the newest run, {directory.path}", err=True)
    return directory


def _is_done(directory: RunDirectory, settings: RunConfig) -> bool:
    """Whether there is nothing left to do; says so."""
    check_same_run(directory.read_config(), settings)
    if not is_finished(directory.read_summary(), settings):
        return False
    click.echo(
        f"{directory.path} is finished: all {settings.trainer.steps} steps are done, and "
        "there is nothing left to do. For more, raise trainer.steps with --set."
    )
    return True


def _compare_plugins(directory: RunDirectory, plugins: Plugins, accept: bool) -> None:
    """Refuse to go on with other verifiers, say, than the run began with; or warn.

    Raises:
        ConfigError: if a plugin of the run has changed or is missing, and that is not accepted.
    """
    changes = plugin_changes(directory.read_manifest(), plugins.infos)
    if changes and not accept:
        raise ConfigError(
            f"since the run was started, {' '.join(changes)} A resumed run goes on as it began. "
            "Undo that, or pass --accept-plugin-changes."
        )
    for change in changes:
        click.echo(f"warning: since the run was started, {change}", err=True)


def _check(
    settings: RunConfig, plugins: Plugins, sources: PluginSources, dry_run: bool, world: World
) -> None:
    """Run the preflight; the command ends here when something is wrong."""
    click.echo("checking the run", err=True)
    # torch and transformers are imported here, so that `grpo train --help` is quick.
    from grpo_core.training.preflight import preflight
    from grpo_core.training.process_samplers import check_processes

    check_processes(settings, world)
    checks = preflight(settings, plugins, sources)
    failed = [check for check in checks if not check.ok]
    if dry_run:
        _show(checks)
    for check in failed:
        click.echo(f"error: {check.message}", err=True)
    if failed:
        raise click.exceptions.Exit(WRONG_INPUT)


def _show(checks: Sequence[Check]) -> None:
    table = plain_table("", "check", "found")
    for check in checks:
        state = safe("ok", "green") if check.ok else safe("failed", "red")
        table.add_row(state, safe(check.name), safe(check.message))
    Console().print(table)


def _carry_out(
    settings: RunConfig,
    plugins: Plugins,
    sources: PluginSources,
    directory: RunDirectory,
    resume: bool,
    world: World,
) -> None:
    from grpo_core.training.run import train as train_run

    try:
        summary = train_run(settings, plugins, sources, directory, resume=resume, world=world)
    except GrpoError as error:
        # The last two name a cure of their own.
        names_cure = isinstance(error, CheckpointError | ConfigError)
        if directory.read_summary().get("checkpoint") and not names_cure:
            _say_how_to_go_on("failed; once the cause is mended,", directory, sources, world)
        raise
    with suppress(BrokenPipeError):
        if directory.report.exists():
            click.echo(f"report: {directory.report}")
    if summary.get("status") == "interrupted":
        _say_how_to_go_on("interrupted;", directory, sources, world)
        raise click.exceptions.Exit(INTERRUPTED)


def _say_how_to_go_on(
    what: str, directory: RunDirectory, sources: PluginSources, world: World
) -> None:
    with suppress(BrokenPipeError):
        click.echo(f"{what} go on with: {_resume_command(directory, sources, world)}", err=True)


def _resume_command(directory: RunDirectory, sources: PluginSources, world: World) -> str:
    several = ["torchrun", "--standalone", "--nproc-per-node", str(world.size), "-m", "grpo_core"]
    program = ["grpo"] if world.size == 1 else several
    parts = [*program, "train", "--resume", "--output", str(directory.path)]
    for file in sources.files:
        parts += ["--plugin", file]
    return shlex.join(parts)
