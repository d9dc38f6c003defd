"""`grpo plugins test`: the conformance suite on one verifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_core.cli.common import json_option, plain_table, plugin_option, plugin_sources, safe
from grpo_core.cli.exit_codes import FAILED
from grpo_core.cli.verifier_options import parse_options
from grpo_core.errors import DataError
from grpo_core.records.files import dump_json
from grpo_core.testing import CheckResult, ConformanceReport, Example, run_conformance
from grpo_core.testing.attacks import KINDS
from grpo_core.testing.checks import CHECKS
from grpo_core.testing.example import read_examples
from grpo_core.types import Json

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
_SHOWN_WINS = 10
_MESSAGE_LIMIT, _COMPLETION_LIMIT = 1200, 120


@click.command("test")
@click.argument("name")
@click.option(
    "--pairs",
    type=Path,
    metavar="FILE",
    help='JSON lines {"completion", "reference", "expected"} in place of what it ships.',
)
@click.option("--options", default="{}", metavar="JSON", help="The verifier's options.")
@click.option("--set-option", "set_options", multiple=True, metavar="KEY=VALUE", help="One option.")
@click.option(
    "--check",
    "checks",
    multiple=True,
    type=click.Choice([check.name for check in CHECKS]),
    help="Only this check; may be given several times.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="Only attacks of this kind; may be given several times.",
)
@click.option(
    "--max-gameability",
    type=click.FloatRange(0, 1),
    help="Share of attacks that may get credit; by default what the verifier declares, or 0.",
)
@click.option(
    "--silence",
    type=click.FloatRange(0, min_open=True),
    help="Seconds without a sign of life after which a check has failed; by default 60, or more "
    "where the verifier's deadline is longer.",
)
@plugin_option
@json_option
def test_plugin(
    name: str,
    pairs: Path | None,
    options: str,
    set_options: tuple[str, ...],
    checks: tuple[str, ...],
    kinds: tuple[str, ...],
    max_gameability: float | None,
    silence: float | None,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Test the verifier NAME: does it keep the rules that training relies on?

    Its verdicts are checked against examples with a known verdict: those that it ships, or --pairs.
    Then it is called again, in batches, from threads and other processes, on odd and random texts,
    and attacked with completions that know nothing. The exit code is 1 if a check fails.
    """
    examples = None if pairs is None else _read_pairs(pairs)
    with _progress(len(checks) or len(CHECKS), as_json) as on_result:
        report = run_conformance(
            name,
            examples,
            options=parse_options(options, set_options),
            plugin_files=plugin_sources(plugin_files).files,
            kinds=kinds,
            max_gameability=max_gameability,
            checks=checks,
            silence=silence,
            on_result=on_result,
        )
    if as_json:
        click.echo(dump_json(report.to_json()))
    else:
        _show(report)
    if not report.passed:
        raise click.exceptions.Exit(FAILED)


def _read_pairs(path: Path) -> list[Example]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}.") from error
    return read_examples(text.split("\n"), str(path))


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[CheckResult], None]]:
    """A line on standard error, where that is a terminal."""
    console = Console(stderr=True, quiet=quiet)
    done: list[str] = []
    with console.status("testing") as status:

        def on_result(result: CheckResult) -> None:
            done.append(result.name)
            status.update(f"testing: {len(done)} of {total} checks done")

        yield on_result


def _show(report: ConformanceReport) -> None:
    console = Console()
    console.print(_table(report.results))
    for failure in report.failures:
        text = safe(f"\n{failure.name}: {failure.message[:_MESSAGE_LIMIT]}")
        text.stylize("bold red", 0, len(failure.name) + 2)
        console.print(text, soft_wrap=True)
    if report.gameability is not None:
        _show_wins(console, report["gameability"].evidence)
    failed = ", ".join(failure.name for failure in report.failures)
    verdict = f"failed {failed}" if failed else "conforms"
    console.print(safe(f"\nverifier '{report.verifier}' {report.version}: {verdict}", "bold"))


def _table(results: Sequence[CheckResult]) -> Table:
    table = plain_table("check", "outcome", "rule", "found", "seconds", numbers=[4])
    for result in results:
        found = result.message if result.outcome == "skipped" else _numbers(result.evidence)
        table.add_row(
            safe(result.name),
            Text(result.outcome, style=_STYLES[result.outcome]),
            safe(result.rule),
            safe(found, "dim"),
            f"{result.seconds:.2f}",
        )
    return table


def _numbers(evidence: Mapping[str, Json]) -> str:
    """The plain values of a check's evidence."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in evidence.items()
        if isinstance(value, int | float | str) and len(str(value)) < 40
    )


def _show_wins(console: Console, evidence: Mapping[str, Json]) -> None:
    """The gameability score, and what has won."""
    kinds = ", ".join(f"{kind} {share}" for kind, share in evidence["by_kind"].items())
    score = f"{evidence['score']:.2%} ({evidence['won']} of {evidence['tried']}; {kinds})"
    console.print(safe(f"\ngameability {score}"), soft_wrap=True)
    for win in evidence["won_by"][:_SHOWN_WINS]:
        shown = f"{win['completion']!r:.{_COMPLETION_LIMIT}}"
        line = f"  won: {win['attack']}: {shown} for {win['reference']}"
        console.print(safe(line), soft_wrap=True)
