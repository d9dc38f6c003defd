"""`grpo verify`: ask a verifier about one completion, or about a file of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from grpo_core.cli.common import json_option, plugin_option, plugin_sources, safe
from grpo_core.cli.compare_verifiers import compare_names, compare_verifiers
from grpo_core.cli.pairs import check_pairs, judge_pairs, output_stream
from grpo_core.cli.panel import STYLES
from grpo_core.cli.verifier_options import options_by_name, parse_object, parse_options
from grpo_core.plugin_manager import load_plugins
from grpo_core.records.files import dump_json
from grpo_core.records.formats import count
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_core.verification.pool import VerifierPool, VerifierSpec

_REASON_LIMIT, _DETAIL_LIMIT = 2000, 2000


@click.command()
@click.option("--verifier", "name", help="Name of a registered verifier.")
@click.option("--compare", metavar="A,B", help="Batch: several verifiers on the same completions.")
@click.option("--completion", help="The completion to judge; '-' reads standard input.")
@click.option("--reference", help="Text, or a JSON object; null if left out.")
@click.option("--prompt", default="", help="The problem, for verifiers that read it.")
@click.option("--meta", metavar="JSON", help="The task's other fields: a JSON object.")
@click.option("--input", "source", type=Path, help="Batch: a file of JSON lines; '-' is stdin.")
@click.option("--output", type=Path, help="Batch: where verdicts go; by default standard output.")
@click.option("--options", default="{}", metavar="JSON", help="The verifier's options.")
@click.option("--set-option", "pairs", multiple=True, metavar="KEY=VALUE", help="One option.")
@click.option(
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    help="Seconds for a call; by default the verifier's own, or 5.",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--memory-mb", type=click.IntRange(1), default=2048, show_default=True)
@plugin_option
@json_option
def verify(
    name: str | None,
    compare: str | None,
    completion: str | None,
    reference: str | None,
    prompt: str,
    meta: str | None,
    source: Path | None,
    output: Path | None,
    options: str,
    pairs: tuple[str, ...],
    deadline: float | None,
    workers: int,
    memory_mb: int,
    plugin_files: tuple[str, ...],
    as_json: bool,
) -> None:
    """Judge completions with a verifier.

    One pair with --completion and --reference; or a batch with --input, whose lines are
    {"id", "completion", "reference"} and give one verdict a line, in the same order. Only the
    completion is needed: without an id it is the line's number, without a reference null. Lines
    may hold "prompt" and "meta", too.

    With --compare a batch is judged by several verifiers: prints how often each pair of verdicts
    came, and every completion on which they disagree. Lines may hold "expected" (true, false, or
    a status such as "wrong"), with which each verifier is compared, too. --options is then
    {"math": {...}, ...}, and --set-option math.KEY=VALUE.

    The exit code is 0 whatever the verdicts are.
    """
    single = any(value is not None for value in (completion, reference, meta))
    _check_mode(name, compare, completion, single, source, output)
    sources = plugin_sources(plugin_files)
    registry = load_plugins(sources).verifiers
    names = compare_names(compare) if compare else [name or ""]
    for known in names:
        registry[known]  # an unknown name is refused before processes start
    if compare:
        by_name = options_by_name(options, pairs, names)
        specs = [VerifierSpec(known, by_name[known], deadline) for known in names]
        with (
            check_pairs(source or Path("-")) as checked,
            VerifierPool(specs, sources, workers=workers, memory_mb=memory_mb) as pool,
        ):
            compare_verifiers(pool, names, checked, output, as_json)
        return
    name = names[0]
    spec = VerifierSpec(name, parse_options(options, pairs), deadline)

    def open_pool(workers: int) -> VerifierPool:
        return VerifierPool([spec], sources, workers=workers, memory_mb=memory_mb)

    if source is not None:
        _verify_batch(lambda: open_pool(workers), name, source, output)
        return
    sample = _sample(prompt, completion or "", reference, meta)
    with open_pool(1) as pool:
        _show(pool.submit(name, sample).result(), as_json)


def parse_reference(text: str) -> Json:
    """A JSON object where the text is one, else the text itself: '1/2' and '3' stay text."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # a set such as {1, 2}, say


def verdict_fields(verdict: Verdict) -> dict[str, Json]:
    """A verdict as the fields of one output line."""
    return {
        "status": str(verdict.status),
        "score": verdict.score,
        "reason": verdict.reason,
        "details": dict(verdict.details),
        "seconds": verdict.seconds,
        "verifier": verdict.verifier,
        "version": verdict.version,
    }


def _check_mode(
    name: str | None,
    compare: str | None,
    completion: str | None,
    single: bool,
    source: Path | None,
    output: Path | None,
) -> None:
    if (name is None) == (compare is None):
        raise click.UsageError("Give --verifier NAME, or --compare A,B.")
    if compare is not None and source is None:
        raise click.UsageError("--compare needs --input FILE.")
    if single and source is not None:
        raise click.UsageError("--input does not go with --completion, --reference or --meta.")
    if not single and source is None:
        raise click.UsageError("Give --completion and --reference, or --input FILE.")
    if single and completion is None:
        raise click.UsageError("Missing option '--completion'.")
    if output is not None and source is None:
        raise click.UsageError("--output needs --input.")


def _sample(prompt: str, completion: str, reference: str | None, meta: str | None) -> Sample:
    text = sys.stdin.read() if completion == "-" else completion
    wanted = None if reference is None else parse_reference(reference)
    return Sample(prompt, text, wanted, parse_object("--meta", meta or "{}"))


def _verify_batch(
    open_pool: Callable[[], VerifierPool], name: str, source: Path, output: Path | None
) -> None:
    counts: Counter[Status] = Counter()
    with check_pairs(source) as pairs, output_stream(output) as stream, open_pool() as pool:
        for pair, (verdict,) in judge_pairs(pool, [name], pairs):
            line = dump_json({"id": pair.id, **verdict_fields(verdict)})
            stream.write(line.encode("utf-8", "replace") + b"\n")
            counts[verdict.status] += 1
    parts = [f"{count(number)} {status}" for status in Status if (number := counts[status])]
    click.echo(f"{count(counts.total())} verdicts: {', '.join(parts) or 'none'}", err=True)


def _show(verdict: Verdict, as_json: bool) -> None:
    if as_json:
        click.echo(dump_json(verdict_fields(verdict)))
    else:
        Console().print(_verdict_table(verdict))


def _verdict_table(verdict: Verdict) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim")
    score = "none" if verdict.score is None else f"{verdict.score:g}"
    table.add_row("status", safe(verdict.status, STYLES[verdict.status]))
    table.add_row("score", score)
    if verdict.reason:
        table.add_row("reason", safe(verdict.reason[:_REASON_LIMIT]))
    for key, value in verdict.details.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(safe(key), safe(text[:_DETAIL_LIMIT]))
    table.add_row("verifier", safe(f"{verdict.verifier} {verdict.version}"))
    table.add_row("seconds", f"{verdict.seconds:.3f}")
    return table
