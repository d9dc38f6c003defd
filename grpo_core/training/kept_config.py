"""The settings a checkpoint was made with, kept inside it.

A run's config.json is a plain file that people edit, and a resume takes its settings from it. The
copy in the checkpoint is under its checksums, so a run cannot become another one unnoticed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from grpo_core.config import RunConfig
from grpo_core.errors import ConfigError
from grpo_core.records.files import read_json
from grpo_core.training.resume import check_same_run
from grpo_core.validation import build

_COPY = "run_config.json"


def keep_config(run: Path, checkpoint: Path) -> None:
    """Copy the run's config.json into a checkpoint that is being written.

    Raises:
        OSError: if it cannot be written.
    """
    if (run / "config.json").is_file():
        shutil.copyfile(run / "config.json", checkpoint / _COPY)


def check_config(run: Path, checkpoint: Path) -> None:
    """Refuse a config.json that describes another run than the one that made the checkpoint.

    Raises:
        ConfigError: naming each setting with its value then and now.
    """
    if not (checkpoint / _COPY).is_file():
        return
    try:
        now = build(RunConfig, read_json(run / "config.json"))
        check_same_run(read_json(checkpoint / _COPY), now)
    except ConfigError as error:
        raise ConfigError(
            f"{run / 'config.json'} is not what {checkpoint} was made with; {error}\n"
            f"The settings of then are in {checkpoint / _COPY}."
        ) from error
