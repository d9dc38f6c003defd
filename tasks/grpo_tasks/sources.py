"""Rows of a data set from the hub, a local file, or a local folder.

Hub, folders, and Parquet are read by `datasets`. Nothing of a data set is ever run: scripts are not
supported, and trust_remote_code is never passed. A single JSON file is read here, value for value:
`datasets` would take a column of texts such as "2024-05-01" for dates and write them differently.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError, DataError, unknown_name
from grpo_tasks.splits import is_held_out

FILE_TYPES = (".json", ".jsonl", ".parquet")
DEFAULT_TEST_SHARE = 0.1

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the rows of train and test come from.

    Attributes:
        path: hub id, local file, or local folder.
        config: name of a configuration of the hub data set or folder.
        train_split, test_split: what the data set calls them.
        test_path: another place for test rows; None: see `rows`.
        test_share: share of the train rows held out as test; None: see `rows`.
    """

    path: str
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    test_path: str | None = None
    test_share: float | None = None

    def rows(
        self,
        split: str,
        columns: Sequence[str],
        content: Callable[[Row], str],
        hint: str = "",
    ) -> Iterator[tuple[int, Row]]:
        """Rows of "train" or "test", with their number in the data set, from 0.

        Test rows are those of `test_path`; or the rows of train whose content hash falls in
        `test_share`; or, with neither given, the data set's own test split, and a tenth of the
        rows where the data set is a single file.

        Args:
            split: "train" or "test".
            columns: names that must exist; `a.b` is field b of column a.
            content: what a row asks, as text; decides its side of a hash split.
            hint: what to add where a column does not exist.

        Raises:
            DataError: if the data cannot be read, or the split is empty.
            ConfigError: if a column or split does not exist.
        """
        share = self.test_share
        if share is None and self.test_path is None and is_file(self.path):
            share = DEFAULT_TEST_SHARE
        own = split == "train" or share is not None
        path = self.path if own or self.test_path is None else self.test_path
        config = self.config if path == self.path else None
        table = _read(path, self.train_split if own else self.test_split, config)
        for column in columns:
            _check_column(table, column, path, hint)
        empty = True
        for number, row in enumerate(table.rows):
            if share is None or is_held_out(content(row), share) == (split == "test"):
                empty = False
                yield number, row
        if empty:
            raise DataError(
                f"data set '{path}' has no rows for '{split}'."
                + ("" if share is None else " Set test_share or test_path.")
            )


@dataclass(frozen=True, slots=True)
class Table:
    """Rows, and the names of all columns that occur in them."""

    columns: Sequence[str]
    rows: Iterable[Row]


def check_one_test(test_path: str | None, test_share: float | None) -> None:
    """Refuse two places for the test rows.

    Raises:
        ConfigError: if both are set.
    """
    if test_path is not None and test_share is not None:
        raise ConfigError("test_path and test_share exclude each other. Unset one of them.")


def value_of(row: Row, column: str) -> Any:
    """The value of a column, or of field b of column a for "a.b"; None if there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def text_of(row: Row, column: str) -> str:
    """The value of a column as text; lists and structures as JSON."""
    value = value_of(row, column)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def is_file(path: str) -> bool:
    """True for the name of a single data file."""
    return Path(path).suffix.lower() in FILE_TYPES


def _is_local(path: str) -> bool:
    """True for what exists here, and for what cannot be a hub id ("name" or "owner/name")."""
    return (
        is_file(path)
        or path.startswith((".", "~", "/"))
        or path.count("/") > 1
        or Path(path).exists()
    )


def _read(path: str, split: str, config: str | None) -> Table:
    """One split of a data set.

    Raises:
        DataError: naming the path and the cure.
        ConfigError: if the data set has no such split or configuration.
    """
    local = Path(path).expanduser()
    if _is_local(path) and not local.exists():
        raise DataError(f"data set '{path}' does not exist: no such file or folder.")
    if not local.is_file():
        return _load(path, str(local) if local.is_dir() else path, config, split=split)
    if not is_file(path):
        raise DataError(
            f"data file '{path}' must end in {', '.join(FILE_TYPES)}, got '{local.suffix}'."
        )
    if config is not None:
        raise ConfigError(f"config '{config}' has no meaning for the single file '{path}'.")
    if local.suffix.lower() == ".parquet":
        return _load(path, "parquet", data_files={split: str(local)}, split=split)
    rows = _json_rows(local)
    if not rows:
        raise DataError(f"data set '{path}' is empty.")
    return Table(list(dict.fromkeys(column for row in rows for column in row)), rows)


def _load(path: str, *arguments: Any, **options: Any) -> Table:
    import datasets

    try:
        with _progress_on_terminals_only():
            data = datasets.load_dataset(*arguments, **options)
    except ConnectionError as error:
        raise DataError(
            f"data set '{path}' cannot be reached on the hub: {error}. Check the name and the "
            "network, or give the path of a local .jsonl, .json, or .parquet file."
        ) from error
    except (OSError, ValueError, StopIteration, datasets.exceptions.DatasetsError) as error:
        text = str(error)
        if text.startswith(("Unknown split", "BuilderConfig", "Config name is missing")):
            raise ConfigError(f"data set '{path}': {text}") from error
        # `datasets` tells of a data set without rows in these two ways.
        if isinstance(error, StopIteration) or "corresponds to no data" in text:
            raise DataError(f"data set '{path}' is empty.") from error
        raise DataError(
            f"data set '{path}' cannot be read: {type(error).__name__}: {error.__cause__ or error}"
        ) from error
    return Table(data.column_names, data)


def _json_rows(file: Path) -> list[Row]:
    """The objects of a JSON list, or of JSON lines; blank lines do not count."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data set '{file}' cannot be read: {error}") from error
    if file.suffix.lower() == ".json" and text.lstrip().startswith("["):
        rows = _parse(text, f"data set '{file}'")
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [_parse(line, f"data set '{file}', line {n}") for n, line in lines if line.strip()]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(f"data set '{file}', row {number}: no JSON object, got {row!r:.80}.")
    return list(rows)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}") from error


@contextmanager
def _progress_on_terminals_only() -> Iterator[None]:
    import datasets

    if sys.stderr.isatty() or datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.enable_progress_bars()


def _check_column(table: Table, column: str, path: str, hint: str) -> None:
    """Refuse a column that does not exist, or a field that the first row does not have."""
    first = next(iter(table.rows), {})
    if column in table.columns or value_of(first, column) is not None:
        return
    raise ConfigError(f"data set '{path}': {unknown_name('column', column, table.columns, hint)}")
