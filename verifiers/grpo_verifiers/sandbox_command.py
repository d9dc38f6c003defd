"""`grpo sandbox doctor`: what holds strangers' programs on this machine.

Outside of the package `sandbox`, which every start of the command line would import otherwise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from grpo_verifiers.sandbox.api import Layer, Level
    from grpo_verifiers.sandbox.examine import Examination

_FAILED = 1
_LEVELS = ("process", "os", "ns", "cgroup")
_WORD, _NAME = 9, 12  # columns


@click.group()
def sandbox() -> None:
    """Look at the sandbox that runs model-written programs."""


@sandbox.command()
@click.option(
    "--level",
    type=click.Choice(_LEVELS),
    default="os",
    show_default=True,
    help="The isolation to compare with.",
)
@click.option("--backend", default="zygote", show_default=True, help="zygote or bubblewrap.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def doctor(level: str, backend: str, as_json: bool) -> None:
    """Try every layer of isolation, and say what to do about those that are missing.

    The exit code is 0 when the level holds.
    """
    from rich.console import Console

    from grpo_verifiers.sandbox.api import Level
    from grpo_verifiers.sandbox.examine import examine

    found, wanted = examine(backend), Level(level)
    if as_json:
        click.echo(json.dumps(found.as_json(wanted), indent=2))
    else:
        show(found, wanted, Console())
    if not found.reaches(wanted):
        raise click.exceptions.Exit(_FAILED)


def show(found: Examination, level: Level, console: Console) -> None:
    """Print layers, levels and times."""
    from rich.text import Text

    console.print(f"sandbox '{found.backend}' on {found.machine}\n", highlight=False)
    for layer in found.layers:
        console.print(_row(layer, found.is_demanded(layer.name, level)))
    reached = [str(one) for one in found.refusals if found.reaches(one)]
    console.print(f"\nlevels that hold: {', '.join(reached) or 'none'}", highlight=False)
    if found.layers:
        times = f"{found.start_seconds:.2f} s to start, {found.job_ms[0]:.1f} ms for an empty job"
        console.print(times, highlight=False)
    if not found.reaches(level):
        console.print(Text(found.refusals[level], "bold red"))


def _row(layer: Layer, is_demanded: bool) -> Table:
    """A layer: state, name, what was found; below it what it was tried with, and the cure."""
    from rich.table import Table
    from rich.text import Text

    from grpo_verifiers.sandbox.examine import tried_against

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=_WORD)
    table.add_column(width=_NAME)
    table.add_column(ratio=1, overflow="fold")
    if layer.used:
        state = Text("proved", "green") if layer.proved else Text("fails", "bold red")
    else:
        state = Text("missing", "bold red") if is_demanded else Text("not used", "yellow")
    table.add_row(state, layer.name, Text(layer.found))
    attempts = tried_against(layer.name)
    if layer.used and attempts:
        table.add_row("", Text("tried", "dim"), Text(", ".join(attempts), "dim"))
    if layer.cure:
        table.add_row("", Text("to do", "dim"), Text(layer.cure, "bold"))
    return table
