"""Files of JSON lines that only grow: one line a step, or one an event of a step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from grpo_core.errors import CheckpointError
from grpo_core.records.files import MOVE_AWAY, dump_json, write_error
from grpo_core.types import Json


def append_line(path: Path, line: Mapping[str, Json]) -> None:
    """Add a line; it is on disk when this returns.

    Raises:
        CheckpointError: if the disk is full, the file is not writable, and the like.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(dump_json(line) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def read_lines(path: Path) -> list[dict[str, Json]]:
    """All lines; none of a file that is missing, and not a last one that a kill cut short.

    Raises:
        CheckpointError: naming the first line that is damaged.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    return [_read_line(path, number, line) for number, line in enumerate(lines, 1)]


def _read_line(path: Path, number: int, line: str) -> dict[str, Json]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged in line {number}: {error}. {MOVE_AWAY}"
        ) from error


def check_unbroken(path: Path, step: int) -> None:
    """Every step from that of the first line on has a line; a file that was moved away has none.

    Raises:
        CheckpointError: if lines have been lost.
    """
    steps = {_step(line) for line in read_lines(path)}
    missing = set(range(int(min(steps - {math.inf}, default=1)), step + 1)) - steps
    if missing and path.exists():
        raise CheckpointError(
            f"{path} has no line of step {min(missing)}, though there is a checkpoint of step "
            f"{step}. {MOVE_AWAY}"
        )


def lines_until(path: Path, step: int) -> list[dict[str, Json]]:
    """The lines up to a step."""
    return [line for line in read_lines(path) if _step(line) <= step]


def _step(line: Mapping[str, Json]) -> float:
    """The step of a line; infinite when it has none, for then it belongs to none that is kept."""
    step = line.get("step")
    return step if isinstance(step, int | float) else math.inf
