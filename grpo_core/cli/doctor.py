"""`grpo doctor`: does everything that a run rests on work here, with this model?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from grpo_core.cli.common import (
    json_option,
    plugin_option,
    plugin_sources,
    read_config,
    safe,
    set_option,
)
from grpo_core.cli.exit_codes import FAILED
from grpo_core.cli.train import MAIN_JOB
from grpo_core.records.files import dump_json
from grpo_core.training.doctor.diagnose import as_json as report
from grpo_core.training.doctor.diagnose import diagnose
from grpo_core.training.doctor.finding import Finding, Grade

_STYLES = {
    Grade.OK: "green",
    Grade.WARNING: "yellow",
    Grade.PROBLEM: "bold red",
    Grade.SKIPPED: "dim",
}
_WORD, _NAME = max(len(grade) for grade in Grade), 22  # columns


@click.command()
@click.argument("config", required=False, type=Path)
@set_option
@plugin_option
@click.option("--quick", is_flag=True, help="Leave out what loads the model.")
@json_option
def doctor(
    config: Path | None,
    overrides: tuple[str, ...],
    plugin_files: tuple[str, ...],
    quick: bool,
    as_json: bool,
) -> None:
    """Check installation, model, template, verifiers, sandbox layers and sampler.

    CONFIG is a TOML file or the config.json of a run; without one the main job's is taken. Says
    for each check what was measured and what to mend. The exit code is 1 when there is a problem.
    """
    settings = read_config(config or MAIN_JOB, overrides)
    console, findings = Console(), []
    for finding in diagnose(settings, plugin_sources(plugin_files), quick=quick):
        findings.append(finding)
        if not as_json:
            console.print(_row(finding))  # at once: the next one may take a minute
    if as_json:
        click.echo(dump_json(report(findings)))
    else:
        console.print(_total(findings), highlight=False)
    if any(finding.grade is Grade.PROBLEM for finding in findings):
        raise click.exceptions.Exit(FAILED)


def _row(finding: Finding) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(width=_WORD)
    table.add_column(width=_NAME)
    table.add_column(ratio=1, overflow="fold")
    grade = safe(finding.grade, _STYLES[finding.grade])
    table.add_row(grade, safe(finding.name), safe(finding.found))
    if finding.cure:
        table.add_row("", safe("to do", "dim"), safe(finding.cure, "bold"))
    return table


def _total(findings: list[Finding]) -> str:
    counts = Counter(finding.grade for finding in findings)
    nouns = (Grade.WARNING, Grade.PROBLEM)
    parts = [
        f"{counts[grade]} {grade}{'s' if grade in nouns and counts[grade] != 1 else ''}"
        for grade in Grade
    ]
    return f"\n{len(findings)} checks: {', '.join(parts)}"
