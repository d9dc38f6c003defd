"""A stranger's distribution, installed by pip and found through its entry point."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "plugin_package"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed grpo-plugin-example into; put it on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugin_package")
    source = shutil.copytree(SOURCE, folder / "source")  # setuptools writes beside its source
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(source)]
    if importlib.util.find_spec("setuptools"):
        command.append("--no-build-isolation")  # else pip fetches setuptools from an index
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder / "site"


def run(
    installed: Path, *arguments: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Python in a folder of its own, with the plugin on its path."""
    path = os.pathsep.join([str(installed), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )


def answer(installed: Path, code: str, cwd: Path, **variables: str) -> object:
    """What `code` assigns to `result`, with `plugins` loaded."""
    script = (
        "import json\nfrom grpo_core.plugin_manager import load_plugins\n"
        f"plugins = load_plugins()\n{code}\nprint(json.dumps(result))"
    )
    process = run(installed, "-c", script, cwd=cwd, **variables)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_entry_point_is_found_and_described(installed: Path, tmp_path: Path) -> None:
    code = (
        "info = next(info for info in plugins.infos if info.name == 'example')\n"
        "result = [info.origin, info.version, len(info.source_hash)]"
    )
    expected = ["grpo-plugin-example 1.2.3", "1.2.3", 64]
    assert answer(installed, code, tmp_path) == expected


def test_everything_is_registered_and_works(installed: Path, tmp_path: Path) -> None:
    code = """
from grpo_core import Sample
from grpo_core.testing import make_scored
judge = plugins.verifiers["palindrome"].create({"min_length": 4})
shape = plugins.shapers["question_marks"].create({"free": 1})
task = plugins.tasks["reversal"].create({"upper": True})
result = {
    "verdicts": [v.status for v in judge.verify([Sample("", "Anna", "n"), Sample("", "aa", "a")])],
    "version": plugins.verifiers["palindrome"].version,
    "summary": plugins.verifiers["palindrome"].summary,
    "values": list(shape.shape([make_scored("a?b?"), make_scored("a?")])),
    "prompts": [[p.id, p.reference] for p in task.load("test")],
    "judge": task.default_verifier,
}"""
    assert answer(installed, code, tmp_path) == {
        "verdicts": ["correct", "wrong"],
        "version": "2.0",
        "summary": "Correct if the completion reads the same backwards and contains the reference.",
        "values": [-0.5, 0.0],
        "prompts": [["reversal:ANCHOR", "ROHCNA"], ["reversal:ENGINE", "ENIGNE"]],
        "judge": "exact",
    }


def test_options_are_checked_with_the_nearest_name(installed: Path, tmp_path: Path) -> None:
    code = """
from grpo_core.errors import ConfigError
try:
    plugins.verifiers["palindrome"].create({"min_lenght": 3})
except ConfigError as error:
    result = str(error)"""
    assert answer(installed, code, tmp_path) == (
        "verifier 'palindrome'.min_lenght: unknown setting. Did you mean 'min_length'? "
        "Available here: ignore_case, min_length."
    )


def test_command_is_added(installed: Path, tmp_path: Path) -> None:
    code = """
import click
from click.testing import CliRunner
group = click.Group("grpo")
plugins.manager.hook.grpo_add_cli(group=group)
result = CliRunner().invoke(group, ["example", "stressed"]).output"""
    assert answer(installed, code, tmp_path) == "desserts\n"


def test_command_line_knows_it(installed: Path, tmp_path: Path) -> None:
    def grpo(*arguments: str) -> str:
        script = "from grpo_core.cli.main import main; main()"
        process = run(installed, "-c", script, *arguments, cwd=tmp_path)
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert grpo("example", "stressed") == "desserts\n"
    described = grpo("plugins", "describe", "palindrome", "--json")
    assert "letters a palindrome needs" in described and "grpo-plugin-example 1.2.3" in described
    pair = ("--completion", "Anna", "--reference", "nn", "--set-option", "min_length=4")
    verdict = json.loads(grpo("verify", "--verifier", "palindrome", *pair, "--json"))
    assert (verdict["status"], verdict["version"]) == ("correct", "2.0")  # judged in a worker


def test_observers_see_the_events(installed: Path, tmp_path: Path) -> None:
    code = """
hook = plugins.manager.hook
hook.grpo_run_started(run_directory="runs/x", config={"seed": 0, "grpo": {}})
hook.grpo_progress(phase="sample", done=1, total=2)
hook.grpo_progress(phase="sample", done=2, total=2)
hook.grpo_rollouts_scored(step=1, groups=[])
hook.grpo_step_finished(step=1, metrics={"loss": 0.5})
hook.grpo_evaluation_finished(step=1, result={"pass_at_1": 0.5})
hook.grpo_run_finished(summary={"status": "finished"})
result = None"""
    log = tmp_path / "events.jsonl"
    answer(installed, code, tmp_path, GRPO_EXAMPLE_LOG=str(log))
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"event": "run_started", "run_directory": "runs/x", "sections": ["grpo", "seed"]},
        {"event": "progress", "phase": "sample", "total": 2},
        {"event": "rollouts_scored", "step": 1, "rewards": []},
        {"event": "step_finished", "step": 1, "metrics": ["loss"]},
        {"event": "evaluation_finished", "step": 1, "result": ["pass_at_1"]},
        {"event": "run_finished", "status": "finished"},
    ]


def test_disabled_by_the_environment(installed: Path, tmp_path: Path) -> None:
    code = (
        "result = ['palindrome' in plugins.verifiers, 'example' in [i.name for i in plugins.infos]]"
    )
    assert answer(installed, code, tmp_path) == [True, True]
    off = {"GRPO_DISABLED_PLUGINS": "example"}
    assert answer(installed, code, tmp_path, **off) == [False, False]


def test_second_distribution_of_that_name_is_refused(installed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(SOURCE, tmp_path / "copy")
    info = copy / "imitation-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imitation\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[grpo_core]\nexample = grpo_plugin_example.hooks\n")
    code = "from grpo_core.plugin_manager import load_plugins; load_plugins()"
    code = f"import sys; sys.path.append({str(copy)!r}); {code}"
    process = run(installed, "-c", code, cwd=tmp_path)
    assert process.returncode == 1
    message = process.stderr.splitlines()[-1]
    assert "grpo-plugin-example 1.2.3" in message and "imitation 0.1" in message
    assert "GRPO_DISABLED_PLUGINS=example" in message


def test_its_own_tests_pass(installed: Path, tmp_path: Path) -> None:
    shutil.copy(SOURCE / "example_tests.py", tmp_path)
    process = run(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "example_tests.py", cwd=tmp_path
    )
    assert process.returncode == 0, process.stdout
    assert "3 passed" in process.stdout


def test_it_imports_the_public_face_only() -> None:
    public = ("grpo_core import", "grpo_core.errors", "grpo_core.types", "grpo_core.testing")
    for file in SOURCE.rglob("*.py"):
        for line in file.read_text().splitlines():
            if "grpo_core" in line and "import" in line:
                assert any(name in line for name in public), f"{file.name}: {line}"
