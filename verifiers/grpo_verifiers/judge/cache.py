"""Verdicts that were paid for once: the latest in memory, all of them in a file if one is named."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import OrderedDict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_core.errors import VerifierError
from grpo_core.types import Json

_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, outcome TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    id INTEGER PRIMARY KEY CHECK (id = 0), calls INTEGER NOT NULL, cost REAL NOT NULL
);
INSERT OR IGNORE INTO spent VALUES (0, 0, 0.0);
"""


class Outcome(BaseModel):
    """What the votes were; the score and the verdict follow from them and the options."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scores: tuple[float, ...]
    choices: tuple[dict[str, str], ...]
    reasoning: str = ""


def cache_key(parts: Json) -> str:
    """One key for everything that decides an outcome."""
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


class OutcomeCache:
    """Belongs to one thread. The file may be shared by runs, one after the other or at once.

    Args:
        size: outcomes kept in memory; the one that was not used for longest goes first.
        path: SQLite file, or None.

    Raises:
        VerifierError: if the file cannot be used.
    """

    def __init__(self, size: int, path: str | None) -> None:
        self._size = size
        self._path = path
        self._memory: OrderedDict[str, Outcome] = OrderedDict()
        self._file: sqlite3.Connection | None = None
        if path is not None:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._file = sqlite3.connect(path, timeout=10.0, isolation_level=None)
                self._file.executescript(_TABLES)
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise self._unusable(error) from error

    @property
    def has_file(self) -> bool:
        """Whether anything outlives this process."""
        return self._file is not None

    def get(self, key: str) -> Outcome | None:
        """The outcome of that key, or None."""
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        rows = self._run("SELECT outcome FROM verdicts WHERE key = ?", key)
        try:
            outcome = Outcome.model_validate_json(rows[0][0]) if rows else None
        except ValidationError:
            return None  # of another version; it is written anew
        if outcome is not None:
            self._remember(key, outcome)
        return outcome

    def put(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._remember(key, outcome)
        text = outcome.model_dump_json()
        self._run("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", key, text)

    def spent(self) -> tuple[int, float]:
        """Calls and cost so far, of all runs that used the file."""
        rows = self._run("SELECT calls, cost FROM spent")
        return rows[0] if rows else (0, 0.0)

    def add_spent(self, calls: int, cost: float) -> None:
        """Add to them."""
        self._run("UPDATE spent SET calls = calls + ?, cost = cost + ?", calls, cost)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _remember(self, key: str, outcome: Outcome) -> None:
        self._memory[key] = outcome
        self._memory.move_to_end(key)
        while len(self._memory) > self._size:
            self._memory.popitem(last=False)

    def _run(self, statement: str, *values: str | float) -> list[tuple]:
        if self._file is None:
            return []
        try:
            return self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> VerifierError:
        return VerifierError(
            f"cache.path '{self._path}' cannot be used: {error}. Name another file, or remove it "
            "if it is no cache of a judge."
        )
