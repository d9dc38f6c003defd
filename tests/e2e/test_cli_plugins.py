"""`grpo plugins list` and `describe`, on a plugin file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner, Result
from pydantic import BaseModel, Field, PositiveInt

from grpo_core.cli.main import cli
from grpo_core.cli.option_text import option_fields

PLUGIN = '''
from grpo_core import Sample, hookimpl, verifier


@verifier(version="2.1")
def starts_with(sample: Sample, *, ignore_case: bool = False, least: int | None = None):
    """Right when the completion starts with the reference.

    Takes [red]markup[/red] for text.
    """
    return sample.completion.startswith(sample.reference)


@hookimpl
def grpo_register_verifiers(register):
    register("starts_with", starts_with)
    register("gone", "no_such_module:thing")
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def grpo(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_list_shows_kind_name_version_and_origin(plugin: str) -> None:
    result = grpo("plugins", "list", "--plugin", plugin)
    assert result.exit_code == 0
    line = next(line for line in result.stdout.splitlines() if "starts_with" in line)
    assert line.split()[:4] == ["verifier", "starts_with", "2.1", "mine"] and plugin in line
    assert any(line.split()[:2] == ["loss", "grpo"] for line in result.stdout.splitlines())


def test_list_goes_on_past_what_cannot_be_loaded(plugin: str) -> None:
    lines = grpo("plugins", "list", "--plugin", plugin).stdout.splitlines()
    assert any("gone" in line and "cannot be loaded" in line for line in lines)


def test_list_as_json(plugin: str) -> None:
    rows = json.loads(grpo("plugins", "list", "--json", "--plugin", plugin).stdout)
    assert {
        "kind": "verifier",
        "name": "starts_with",
        "version": "2.1",
        "plugin": "mine",
        "origin": plugin,
    } in rows


def test_list_shows_plugins_that_only_observe(tmp_path: Path) -> None:
    path = tmp_path / "watcher.py"
    path.write_text(
        "from grpo_core import hookimpl\n@hookimpl\ndef grpo_run_finished(summary): pass\n"
    )
    rows = json.loads(grpo("plugins", "list", "--json", "--plugin", str(path)).stdout)
    assert {"hooks": "grpo_run_finished"} in [
        {row["kind"]: row["name"]} for row in rows if row["plugin"] == "watcher"
    ]


def test_describe_shows_typed_options_docstring_and_origin(plugin: str) -> None:
    result = grpo("plugins", "describe", "starts_with", "--plugin", plugin)
    assert result.exit_code == 0
    for expected in (
        "verifier starts_with version 2.1", "Right when the completion starts with the reference.",
        "[red]markup[/red]", "ignore_case: bool = False", "least: int | None = None",
        plugin, "source hash",
    ):  # fmt: skip
        assert expected in result.stdout


def test_types_and_limits_are_written_plainly() -> None:
    class Section(BaseModel):
        most: int = Field(3, description="how many")

    class Options(BaseModel):
        level: tuple[Literal["a", "b"], ...] = Field(("a",), min_length=1)
        size: PositiveInt | None = None
        share: float = Field(ge=0, le=1, description="how much")
        table: dict[str, list[int]] = {}
        limits: Section = Section()

    found = {option["name"]: option for option in option_fields(Options)}
    assert found["level"]["type"] == "tuple['a' | 'b', ...] (length >= 1)"
    assert found["size"]["type"] == "int (> 0) | None"
    assert found["share"]["type"] == "float (>= 0, <= 1)"
    assert found["share"]["required"] and found["share"]["default"] is None
    assert found["table"]["type"] == "dict[str, list[int]]" and found["table"]["default"] == "{}"
    assert "limits" not in found
    assert (found["limits.most"]["default"], found["limits.most"]["description"]) == (
        "3", "how many"
    )  # fmt: skip
    assert option_fields(None) == []


def test_describe_as_json(plugin: str) -> None:
    (found,) = json.loads(
        grpo("plugins", "describe", "starts_with", "--json", "--plugin", plugin).stdout
    )
    assert found["options"][0] == {
        "name": "ignore_case",
        "type": "bool",
        "required": False,
        "default": "False",
        "description": "",
    }
    assert len(found["source_hash"]) == 64


def test_describe_unknown_name_offers_the_nearest(plugin: str) -> None:
    result = grpo("plugins", "describe", "start_with", "--plugin", plugin)
    assert result.exit_code == 2
    assert "Unknown name 'start_with'. Did you mean 'starts_with'?" in result.stderr


def test_describe_what_cannot_be_loaded_says_why(plugin: str) -> None:
    result = grpo("plugins", "describe", "gone", "--plugin", plugin)
    assert result.exit_code == 2
    assert "no_such_module" in result.stderr and "GRPO_DISABLED_PLUGINS=mine" in result.stderr


def test_missing_plugin_file() -> None:
    result = grpo("plugins", "list", "--plugin", "nowhere.py")
    assert result.exit_code == 2 and "nowhere.py does not exist" in result.stderr


def test_plugin_file_with_a_misspelt_hook(tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("from grpo_core import hookimpl\n@hookimpl\ndef grpo_run_finnished(): pass\n")
    result = grpo("plugins", "list", "--plugin", str(path))
    assert result.exit_code == 2 and "Did you mean 'grpo_run_finished'?" in result.stderr
