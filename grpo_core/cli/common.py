"""Options and small helpers that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich import box
from rich.table import Table
from rich.text import Text

from grpo_core.config import RunConfig, load_config
from grpo_core.errors import ConfigError
from grpo_core.overrides import apply_override
from grpo_core.plugin_manager import PluginSources
from grpo_core.records.formats import interval, mean, percent
from grpo_core.records.text import printable
from grpo_core.types import Json
from grpo_core.validation import build

Command = TypeVar("Command", bound=Callable[..., Any])


def plugin_option(command: Command) -> Command:
    """`--plugin FILE`, any number of times."""
    return click.option(
        "--plugin",
        "plugin_files",
        multiple=True,
        metavar="FILE",
        help="Load a plugin from a Python file too; may be given several times.",
    )(command)


def set_option(command: Command) -> Command:
    """`--set KEY=VALUE`, any number of times."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a setting, such as trainer.steps=50; may be given several times.",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def plugin_sources(files: Iterable[str]) -> PluginSources:
    """Installed plugins and those files, by absolute path: workers may run elsewhere."""
    return PluginSources(tuple(str(Path(file).absolute()) for file in files))


def read_config(path: Path, overrides: Iterable[str]) -> RunConfig:
    """A run's settings from TOML, or from the config.json of an earlier run.

    Raises:
        ConfigError: as `load_config`.
    """
    if path.suffix != ".json":
        return load_config(path, overrides)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds no settings: it must be a JSON object, got {values!r:.80}. Give a TOML "
            "file, or the config.json of a run."
        )
    return with_overrides(values, overrides)


def with_overrides(values: Mapping[str, Json], overrides: Iterable[str]) -> RunConfig:
    """`values` as a run's settings, `--set` applied.

    Raises:
        ConfigError: as `load_config`.
    """
    changed = dict(values)
    for override in overrides:
        apply_override(changed, override)
    return build(RunConfig, changed)


def plain_table(*columns: str, numbers: Iterable[int] = ()) -> Table:
    """A table without frames; the columns at the positions `numbers` are aligned right."""
    numeric = set(numbers)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", show_edge=False)
    for position, column in enumerate(columns):
        table.add_column(safe(column), justify="right" if position in numeric else "left")
    return table


def safe(value: object, style: str = "") -> Text:
    """Untrusted text: no markup, no control characters."""
    return Text(printable(str(value)), style=style)


def estimate_text(estimate: Json) -> str:
    """81.0% (77.0% to 85.0%)."""
    ends = interval(estimate)
    return f"{percent(mean(estimate))} ({ends})" if ends else percent(mean(estimate))
