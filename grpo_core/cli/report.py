"""`grpo report`: build the page of a run anew."""

from __future__ import annotations

from pathlib import Path

import click

from grpo_core.records.report import write_report
from grpo_core.records.run_directory import RunDirectory


@click.command()
@click.argument("run", type=Path)
def report(run: Path) -> None:
    """Build a run's report.html anew.

    RUN is the folder of the run; prints the path of the page.
    """
    click.echo(write_report(RunDirectory.open(run)))
