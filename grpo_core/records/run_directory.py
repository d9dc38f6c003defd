"""The folder of a run: what is in it, and how it is written and read back.

    config.json               the resolved config
    manifest.json             versions, plugins, seed, hardware, git; see `manifest.py`
    metrics.jsonl             one line a training step
    alarms.jsonl              one line an alarm about those numbers; missing while there is none
    rollouts/                 step-000001.parquet: every completion of every training step
    evaluations/              step-000000.json: the result; step-000000.parquet: the completions
    checkpoints/              written by the trainer
    summary.json              how it ended
    report.html               all of it, for people

Whole files are replaced atomically; the two .jsonl only grow, and are cut back on a resume.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from grpo_core.errors import CheckpointError
from grpo_core.records.files import (
    MOVE_AWAY,
    dump_json,
    is_leftover,
    read_json,
    remove_leftovers,
    write_error,
    write_json,
    write_text,
)
from grpo_core.records.lines import append_line, check_unbroken, lines_until, read_lines
from grpo_core.records.rollouts import read_rollouts, write_rollouts
from grpo_core.types import Json, RolloutGroup

DEFAULT_BASE = "runs"
_CONFIG_CURE = "Put it back from a copy, such as run_config.json in one of the run's checkpoints."


class RunDirectory:
    """The files of one run.

    Attributes:
        path: the folder, which exists.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls, name: str | Path | None = None, base: str | Path = DEFAULT_BASE
    ) -> RunDirectory:
        """Make the folder `base/name`; an existing one must hold no files.

        Args:
            name: None: the date and time, made unique.
            base: folder of the runs; "" to take `name` as a path.

        Raises:
            CheckpointError: if the folder holds files or cannot be written.
        """
        path = cls.check_new(_unused_path(Path(base)) if name is None else Path(base) / name)
        try:
            for folder in ("rollouts", "evaluations", "checkpoints"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
        except OSError as error:
            raise write_error(path, error) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """An existing run.

        Raises:
            CheckpointError: if `path` is not the folder of a run.
        """
        path = Path(path)
        if not path.is_dir():
            raise CheckpointError(f"there is no run at {path}: no such folder.")
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is not the folder of a run: it has no config.json.")
        return cls(path)

    @classmethod
    def newest(cls, base: str | Path = DEFAULT_BASE) -> RunDirectory:
        """The run in `base` that was started last.

        Raises:
            CheckpointError: if there is none.
        """
        configs = sorted(Path(base).glob("*/config.json"), key=lambda path: path.stat().st_mtime)
        if not configs:
            raise CheckpointError(f"there is no run in {Path(base)}{'/'}. Name one with --output.")
        return cls(configs[-1].parent)

    @staticmethod
    def check_new(path: Path) -> Path:
        """`path`, if a new run may be put there; makes nothing.

        Raises:
            CheckpointError: if it is a file or a folder with files. What a run leaves that was
                killed before it began does not count: empty folders, a half-written config.
        """
        try:
            if path.exists() and not path.is_dir():
                raise CheckpointError(f"{path} is a file, not a folder. Choose another --output.")
            if any(not inner.is_dir() and not is_leftover(inner) for inner in path.rglob("*")):
                raise CheckpointError(
                    f"{path} is not empty. Choose another --output; if a run is in it, "
                    "'grpo train --resume' goes on with it."
                )
        except OSError as error:
            raise write_error(path, error) from error
        return path

    @property
    def checkpoints(self) -> Path:
        """Where the trainer puts checkpoints."""
        return self.path / "checkpoints"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    def write_config(self, config: Mapping[str, Json]) -> None:
        """Store the resolved config."""
        write_json(self.path / "config.json", config)

    def read_config(self) -> dict[str, Json]:
        """The resolved config."""
        return _object(self.path / "config.json", _CONFIG_CURE)

    def write_manifest(self, manifest: Mapping[str, Json]) -> None:
        """Store what the run was made with."""
        write_json(self.path / "manifest.json", manifest)

    def read_manifest(self) -> dict[str, Json]:
        """What the run was made with; empty when nothing is stored."""
        return _object(self.path / "manifest.json", missing_is_empty=True)

    def write_summary(self, summary: Mapping[str, Json]) -> None:
        """Store how the run ended."""
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Json]:
        """How the run ended; empty while it has not."""
        return _object(self.path / "summary.json", missing_is_empty=True)

    def append_metrics(self, metrics: Mapping[str, Json]) -> None:
        """Add one step's line; it is on disk when this returns.

        A checkpoint of the step is written afterwards and must not survive a power cut alone.
        """
        append_line(self.path / "metrics.jsonl", metrics)

    def read_metrics(self) -> list[dict[str, Json]]:
        """The lines of all steps; a last line that a kill cut short is left out."""
        return read_lines(self.path / "metrics.jsonl")

    def append_alarm(self, alarm: Mapping[str, Json]) -> None:
        """Add an alarm, with at least "name", "step" and "message"."""
        append_line(self.path / "alarms.jsonl", alarm)

    def read_alarms(self) -> list[dict[str, Json]]:
        """The alarms so far, in the order they were raised."""
        return read_lines(self.path / "alarms.jsonl")

    def rewind(self, step: int) -> None:
        """Forget what was recorded after `step`, from which the run is resumed.

        Metrics and alarms are cut back; rollouts, evaluations, and the summary of later steps are
        removed, and so are files that a kill has left half written.

        Raises:
            CheckpointError: if lines are damaged, or metrics lack steps up to this one. Nothing is
                changed then.
        """
        check_unbroken(self.path / "metrics.jsonl", step)
        files = [self.path / "metrics.jsonl", self.path / "alarms.jsonl"]
        kept = {path: lines_until(path, step) for path in files if path.exists()}
        remove_leftovers(self.path)
        for path, lines in kept.items():
            write_text(path, "".join(dump_json(line) + "\n" for line in lines))
        for file in [*self._step_files("rollouts", "*"), *self._step_files("evaluations", "*")]:
            if _step_of(file) > step:
                file.unlink(missing_ok=True)
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_rollouts(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Store the completions of a training step."""
        write_rollouts(self._step_file("rollouts", step, "parquet"), groups)

    def read_rollouts(self, step: int) -> list[RolloutGroup]:
        """The completions of a training step."""
        return read_rollouts(self._step_file("rollouts", step, "parquet"))

    @property
    def rollout_steps(self) -> list[int]:
        """Steps whose completions are stored, ascending."""
        return [_step_of(file) for file in self._step_files("rollouts", "parquet")]

    def write_evaluation(
        self, step: int, result: Mapping[str, Json], groups: Sequence[RolloutGroup] = ()
    ) -> None:
        """Store an evaluation and its completions; the completions come first."""
        if groups:
            write_rollouts(self._step_file("evaluations", step, "parquet"), groups)
        write_json(self._step_file("evaluations", step, "json"), result)

    def read_evaluations(self) -> list[dict[str, Json]]:
        """All evaluations, in order of step."""
        return [_object(file) for file in self._step_files("evaluations", "json")]

    def read_evaluation_rollouts(self, step: int) -> list[RolloutGroup]:
        """The completions of an evaluation; empty when none are stored."""
        path = self._step_file("evaluations", step, "parquet")
        return read_rollouts(path) if path.exists() else []

    def _step_file(self, folder: str, step: int, suffix: str) -> Path:
        path = self.path / folder / f"step-{step:06d}.{suffix}"
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        return path

    def _step_files(self, folder: str, suffix: str) -> list[Path]:
        files = (self.path / folder).glob(f"step-*.{suffix}")
        return sorted((file for file in files if file.stem[5:].isdigit()), key=_step_of)


def _step_of(file: Path) -> int:
    return int(file.stem.removeprefix("step-"))


def _unused_path(base: Path) -> Path:
    """`base` / date and time, numbered when two runs start in one second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, count = base / stamp, 1
    while path.exists():
        count += 1
        path = base / f"{stamp}-{count}"
    return path


def _object(path: Path, cure: str = MOVE_AWAY, missing_is_empty: bool = False) -> dict[str, Json]:
    """The JSON object in a file; an error says what can be done."""
    if missing_is_empty and not path.exists():
        return {}
    try:
        value = read_json(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error} {cure}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: it holds no JSON object. {cure}")
    return value
