"""`grpo plugins new`: the package it makes, whose own CI is run for real; and what it refuses."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from grpo_core.cli.main import cli
from grpo_core.errors import PluginError
from grpo_core.scaffold.names import MAX_CHARS, package_names
from grpo_core.scaffold.package import Kind, render_package

KINDS: tuple[Kind, ...] = ("verifier", "shaper", "task")
LONGEST = "x-name-of-thirty-six-characters-here"


def new(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["plugins", "new", *map(str, arguments)])


@pytest.fixture(scope="module", params=KINDS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new package, and in `site` beside it what pip installs."""
    folder = tmp_path_factory.mktemp("new")
    result = new("Unit.Check", "--kind", request.param, "--directory", folder)
    assert result.exit_code == 0, result.output
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site")]
    if importlib.util.find_spec("setuptools"):
        command.append("--no-build-isolation")  # else pip fetches setuptools from an index
    installed = subprocess.run(
        [*command, str(folder / "Unit.Check")], capture_output=True, text=True, timeout=300
    )
    assert installed.returncode == 0, installed.stderr
    return folder / "Unit.Check"


def shell(package: Path, command: str) -> str:
    """Run a command in the package's folder as CI does, with the package installed."""
    programs = package.parent / "bin"
    programs.mkdir(exist_ok=True)
    for program, start in {
        "grpo": "-c 'from grpo_core.cli.main import main; main()'",
        "pytest": "-m pytest",
        "ruff": "-m ruff",
    }.items():
        script = programs / program
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {start} "$@"\n')
        script.chmod(0o755)
    path = os.pathsep.join([str(package.parent / "site"), *filter(None, sys.path)])
    variables = {key: value for key, value in os.environ.items() if "PYTEST" not in key}
    variables |= {"PYTHONPATH": path, "PATH": f"{programs}{os.pathsep}{variables['PATH']}"}
    process = subprocess.run(
        ["sh", "-ec", command],
        cwd=package,
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.mark.slow
def test_its_own_ci_is_green(package: Path) -> None:
    workflow = yaml.safe_load((package / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["check"]["steps"]
    commands = {step["name"]: step["run"] for step in steps if "run" in step}
    assert commands.pop("Install") == 'pip install -e ".[test]"'  # done by the fixture, offline
    assert {"Lint", "Test", "Is it found?"} <= set(commands)
    if not importlib.util.find_spec("ruff"):
        del commands["Lint"]
    outputs = {name: shell(package, command) for name, command in commands.items()}
    assert re.search(r"\b[1-9]\d* passed", outputs["Test"]), outputs["Test"]
    assert "unit_check" in outputs["Is it found?"]


@pytest.mark.slow
def test_it_is_found_and_works_like_any_plugin(package: Path) -> None:
    rows = json.loads(shell(package, "grpo plugins list --json"))
    [row] = [row for row in rows if row["plugin"] == "unit_check"]
    assert (row["name"], row["version"]) == ("unit_check", "0.1.0")
    assert row["origin"] == "unit-check 0.1.0"
    if row["kind"] == "verifier":
        pair = "--completion PARIS --reference Paris --set-option ignore_case=true"
        verdict = json.loads(shell(package, f"grpo verify --verifier unit_check {pair} --json"))
        assert (verdict["status"], verdict["version"]) == ("correct", "0.1.0")


@pytest.mark.slow
def test_a_name_that_is_installed_is_refused(package: Path) -> None:
    with pytest.raises(AssertionError, match="unit-check"):
        shell(package, "grpo plugins new unit-check --directory ..")
    assert not (package.parent / "unit-check").exists()


def test_any_name_gives_tidy_files(tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    for kind, name in itertools.product(KINDS, ("ab", LONGEST)):
        assert new(name, "--kind", kind, "--directory", tmp_path / kind).exit_code == 0
        for path, text in render_package(package_names(name), kind).items():
            assert (tmp_path / kind / name / path).read_text() == text
            assert not any(line != line.rstrip() for line in text.splitlines()), path
    for arguments in (["check", "."], ["format", "--check", "."]):
        command = [sys.executable, "-m", "ruff", *arguments, "--no-cache"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def test_what_is_written(tmp_path: Path) -> None:
    result = new("Unit.Check", "--directory", tmp_path / "deep")
    assert result.exit_code == 0 and "pytest" in result.output
    folder = tmp_path / "deep/Unit.Check"
    listed = [line for line in result.output.splitlines() if line.startswith(str(folder))]
    written = [str(file) for file in sorted(folder.rglob("*")) if file.is_file()]
    assert sorted(listed) == written
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "unit-check"
    assert project["entry-points"] == {"grpo_core": {"unit_check": "unit_check.hooks"}}
    assert "class UnitCheck:" in (folder / "src/unit_check/verifier.py").read_text()
    assert "Choose a licence" in (folder / "README.md").read_text()
    assert "*.egg-info/" in (folder / ".gitignore").read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "taken_folder"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    result = new("taken_folder", "--directory", tmp_path)
    assert result.exit_code == 2 and "exists already" in result.output
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    assert new("taken_folder", "--directory", tmp_path).exit_code == 0  # an empty folder is welcome
    assert new("taken_folder", "--directory", tmp_path).exit_code == 2


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken_folder").write_text("a file")
    assert new("taken_folder", "--directory", tmp_path).exit_code == 2
    assert new("taken_folder", "--directory", tmp_path / "taken_folder").exit_code == 2
    assert (tmp_path / "taken_folder").read_text() == "a file"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "PEP 503"),
        ("../x", "PEP 503"),
        ("a b", "PEP 503"),
        ("-x", "PEP 503"),
        ("x_", "PEP 503"),
        ("zähler", "PEP 503"),
        ("2fast", "could not import"),
        ("class", "could not import"),
        ("tests", "could not import"),
        ("x" * (MAX_CHARS + 1), "Shorten it"),
        ("json", "module of Python itself"),
        ("Math", "module of Python itself"),
        ("grpo-core", "installed already"),
        ("grpo.verifiers", "a plugin 'grpo_verifiers' is installed"),
        ("pydantic-core", "installed already"),
        ("exact", "verifier 'exact' is registered already, by plugin 'grpo_verifiers'"),
        ("json-schema", "verifier 'json_schema' is registered already"),
    ],
)
def test_names_that_are_refused(name: str, why: str, tmp_path: Path) -> None:
    result = new("--directory", tmp_path, "--", name)
    assert result.exit_code == 2 and why in result.output, result.output
    assert not any(tmp_path.iterdir())


def test_a_module_that_exists_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lying_around.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    result = new("lying-around", "--directory", tmp_path)
    assert result.exit_code == 2 and "lying_around.py" in result.output


def test_another_kind_may_have_the_name(tmp_path: Path) -> None:
    assert new("exact", "--kind", "task", "--directory", tmp_path).exit_code == 0


def test_names() -> None:
    names = package_names("My_Unit.check")
    assert (names.distribution, names.module) == ("my-unit-check", "my_unit_check")
    assert names.class_name == "MyUnitCheck"
    assert len(LONGEST) == MAX_CHARS and package_names(LONGEST)
    with pytest.raises(PluginError):
        package_names(LONGEST + "x")
