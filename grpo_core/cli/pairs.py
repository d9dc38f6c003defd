"""Batches of completion and reference: checked as a whole, then judged with bounded memory."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grpo_core.errors import DataError
from grpo_core.records.files import atomic_writer
from grpo_core.types import Json, Sample, Verdict
from grpo_core.verification.pool import VerifierPool

_WINDOW = 256  # pairs under way at once; bounds memory whatever the size of the file
_LABELS: dict[str, bool] = {
    "correct": True,
    "wrong": False,
    "unparseable": False,
    "accept": True,
    "reject": False,
}
_FORM = '{"id": ..., "completion": "...", "reference": ...}'


@dataclass(frozen=True, slots=True)
class Pair:
    """One line of the input.

    Attributes:
        id: whatever the line has as its id, or else its number.
        expected: whether it is right, where the line says so.
    """

    id: Json
    sample: Sample
    expected: bool | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """A checked input file.

    Attributes:
        stream: at its beginning.
        total: how many pairs it holds.
    """

    stream: IO[bytes]
    total: int


@contextmanager
def check_pairs(source: Path) -> Iterator[Pairs]:
    """Open a file of JSON lines and check every line before any work starts.

    Raises:
        DataError: if it cannot be read, or naming the first line that is no pair.
    """
    with _seekable(source) as stream:
        total = sum(1 for _ in _read(stream))
        stream.seek(0)
        yield Pairs(stream, total)


def judge_pairs(
    pool: VerifierPool, names: Sequence[str], pairs: Pairs
) -> Iterator[tuple[Pair, list[Verdict]]]:
    """Each pair with a verdict of each verifier, in order, while later ones are being judged."""
    waiting: deque[tuple[Pair, list[Future[Verdict]]]] = deque()
    with _progress(pairs.total) as advance:
        for pair in _read(pairs.stream):
            waiting.append((pair, [pool.submit(name, pair.sample) for name in names]))
            if len(waiting) >= _WINDOW:
                yield _take(waiting)
                advance()
        while waiting:
            yield _take(waiting)
            advance()


@contextmanager
def output_stream(path: Path | None) -> Iterator[IO[bytes]]:
    """Where verdicts go; a file appears only once it is complete.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    if path is None or str(path) == "-":
        yield sys.stdout.buffer
        return
    with atomic_writer(path) as stream:
        yield stream


def _take(waiting: deque[tuple[Pair, list[Future[Verdict]]]]) -> tuple[Pair, list[Verdict]]:
    pair, futures = waiting.popleft()
    return pair, [future.result() for future in futures]


@contextmanager
def _seekable(source: Path) -> Iterator[IO[bytes]]:
    """The file, or standard input copied to a temporary file: it is read twice."""
    if str(source) == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.seek(0)
            yield copy
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}.") from error
    with stream:
        yield stream


def _read(stream: IO[bytes]) -> Iterator[Pair]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _parse(number, line)


def _parse(number: int, line: bytes) -> Pair:
    try:
        pair = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} of the input is not JSON: {error}.") from error
    if not isinstance(pair, dict):
        raise DataError(f"line {number} of the input is no JSON object. Each must be {_FORM}.")
    if "completion" not in pair:
        raise DataError(f"line {number} of the input has no 'completion'. Each must be {_FORM}.")
    prompt, meta = pair.get("prompt", ""), pair.get("meta", {})
    for key, value in (("completion", pair["completion"]), ("prompt", prompt)):
        if not isinstance(value, str):
            raise DataError(f"line {number}: '{key}' must be text, got {value!r:.80}.")
    if not isinstance(meta, dict):
        raise DataError(f"line {number}: 'meta' must be an object, got {meta!r:.80}.")
    sample = Sample(prompt, pair["completion"], pair.get("reference"), meta)
    return Pair(pair.get("id", number), sample, _expected(number, pair.get("expected")))


def _expected(number: int, value: Json) -> bool | None:
    """Whether a line says that it is right; as a status, too, as the examples of tests do."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, str) and value in _LABELS:
        return _LABELS[value]
    raise DataError(
        f"line {number}: 'expected' must be true or false, or one of {', '.join(_LABELS)}, "
        f"got {value!r:.80}."
    )


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error when that is a terminal."""
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not sys.stderr.isatty(), transient=True
    ) as progress:
        task = progress.add_task("verify", total=total)
        yield lambda: progress.advance(task)
