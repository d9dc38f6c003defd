"""`grpo verify --compare`: several verifiers on the same completions, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from grpo_core.cli.common import plain_table, safe
from grpo_core.cli.pairs import Pair, Pairs, judge_pairs, output_stream
from grpo_core.errors import ConfigError
from grpo_core.records.files import dump_json
from grpo_core.records.formats import count, percent
from grpo_core.types import Json, Status, Verdict
from grpo_core.verification.pool import VerifierPool

_SHOWN = 50  # disagreements in the terminal; --output has them all
_EXCERPT = 70  # characters
_GRADES = ("correct", "not correct", "no verdict")


def compare_names(text: str) -> list[str]:
    """The names in `A,B`.

    Raises:
        ConfigError: if there are fewer than two, or one twice.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--compare needs two or more different verifiers, got '{text}'.")
    return names


def compare_verifiers(
    pool: VerifierPool, names: Sequence[str], pairs: Pairs, output: Path | None, as_json: bool
) -> None:
    """Judge all pairs with all verifiers, and print where they differ.

    With `output` every disagreement goes there as a JSON line, its verdicts whole.
    """
    tables = {two: Counter[tuple[str, str]]() for two in combinations(names, 2)}
    against = {name: Counter[tuple[str, str]]() for name in names}
    statuses = {name: Counter[Status]() for name in names}
    disagreements = []
    total = 0
    for pair, verdicts in judge_pairs(pool, names, pairs):
        total += 1
        by_name = dict(zip(names, verdicts, strict=True))
        for name, verdict in by_name.items():
            statuses[name][verdict.status] += 1
            if pair.expected is not None:
                against[name]["correct" if pair.expected else "not correct", grade(verdict)] += 1
        for a, b in tables:
            tables[a, b][grade(by_name[a]), grade(by_name[b])] += 1
        if len({grade(verdict) for verdict in verdicts}) > 1:
            disagreements.append((pair, by_name))
    if output is not None:
        with output_stream(output) as stream:
            for pair, by_name in disagreements:
                stream.write(f"{dump_json(_line(pair, by_name))}\n".encode("utf-8", "replace"))
    summary: dict[str, Json] = {
        "pairs": total,
        "disagreements": len(disagreements),
        "statuses": {name: dict(found) for name, found in statuses.items()},
        "confusion": [
            {"rows": a, "columns": b, "counts": _cells(cells)} for (a, b), cells in tables.items()
        ],
        "expected": {name: _cells(cells) for name, cells in against.items() if cells},
        "listed": [_line(pair, by_name) for pair, by_name in disagreements],
    }
    if as_json:
        click.echo(dump_json(summary))
        return
    console = Console()
    for (a, b), cells in tables.items():
        console.print(_matrix(a, b, cells))
    if summary["expected"]:
        console.print(_accuracy(against))
    console.print(
        f"{count(total)} completions, {count(len(disagreements))} disagreements "
        f"({percent(len(disagreements) / total if total else None)})"
    )
    _show(disagreements, names, console)


def grade(verdict: Verdict) -> str:
    """The binary verdict, or that there is none."""
    if not verdict.status.is_candidates:
        return "no verdict"
    return "correct" if verdict.is_correct else "not correct"


def _cells(cells: Mapping[tuple[str, str], int]) -> list[dict[str, Json]]:
    return [{"row": row, "column": column, "count": n} for (row, column), n in cells.items()]


def _matrix(a: str, b: str, cells: Mapping[tuple[str, str], int]) -> Table:
    """How often each pair of verdicts came: rows the first verifier's, columns the second's."""
    table = plain_table(f"{a} \u2193  {b} \u2192", *_GRADES, numbers=(1, 2, 3))
    for row in _GRADES:
        numbers = [cells.get((row, column), 0) for column in _GRADES]
        if any(numbers):
            table.add_row(row, *map(count, numbers))
    return table


def _accuracy(against: Mapping[str, Mapping[tuple[str, str], int]]) -> Table:
    """Each verifier against the labels."""
    columns = ("right", "false accepts", "false rejects", "no verdict")
    table = plain_table("against 'expected'", *columns, numbers=(1, 2, 3, 4))
    for name, cells in against.items():
        total = sum(cells.values())
        right = sum(n for (label, found), n in cells.items() if label == found)
        accepts = cells.get(("not correct", "correct"), 0)
        rejects = cells.get(("correct", "not correct"), 0)
        none = total - right - accepts - rejects
        table.add_row(safe(name), percent(right / total), *map(count, (accepts, rejects, none)))
    return table


def _show(
    disagreements: Sequence[tuple[Pair, Mapping[str, Verdict]]],
    names: Iterable[str],
    console: Console,
) -> None:
    if not disagreements:
        return
    table = plain_table("id", *names, "reference", "end of the completion")
    for pair, by_name in disagreements[:_SHOWN]:
        reference = dump_json(pair.sample.reference)
        table.add_row(
            safe(str(pair.id)),
            *(str(verdict.status) for verdict in by_name.values()),
            safe(reference[:_EXCERPT]),
            safe(" ".join(pair.sample.completion[-_EXCERPT:].split())),
        )
    console.print(table)
    if len(disagreements) > _SHOWN:
        left = len(disagreements) - _SHOWN
        console.print(f"... and {count(left)} more; --output FILE has all of them.")


def _line(pair: Pair, by_name: Mapping[str, Verdict]) -> dict[str, Json]:
    return {
        "id": pair.id,
        "expected": pair.expected,
        "verdicts": {
            name: {
                "status": str(verdict.status),
                "score": verdict.score,
                "reason": verdict.reason,
                "details": dict(verdict.details),
            }
            for name, verdict in by_name.items()
        },
        "reference": pair.sample.reference,
        "completion": pair.sample.completion,
    }
