"""`grpo train` around stand-ins for the modules that need torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grpo_core.cli.main import cli
from grpo_core.config import RunConfig, load_config, resolved
from grpo_core.errors import TrainingError
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.records.run_directory import RunDirectory

PLUGIN = '''
from grpo_core import hookimpl


class Sums:
    """Sums."""

    default_verifier = "yes"


class Yes:
    """Always right."""

    version = "3"


@hookimpl
def grpo_register_tasks(register):
    register("sums", Sums)


@hookimpl
def grpo_register_verifiers(register):
    register("yes", Yes)
'''


@dataclass
class Check:
    name: str
    ok: bool
    message: str


class Backend:
    """Stands in for the modules that need torch, and remembers what it was asked."""

    def __init__(self) -> None:
        self.checks = [Check("settings", True, "consistent")]
        self.summary: dict[str, Any] = {"status": "finished", "steps": 1}
        self.error: Exception | None = None
        self.calls: list[Any] = []

    def preflight(self, config: RunConfig, plugins: Plugins, sources: PluginSources) -> list[Check]:
        self.calls.append(("preflight", config, sources))
        return self.checks

    def train(
        self,
        config: RunConfig,
        plugins: Plugins,
        sources: PluginSources,
        directory: RunDirectory,
        *,
        resume: bool,
        world: object,
    ) -> Mapping[str, Any]:
        self.calls.append(("train", config, directory.path, resume))
        directory.write_config(resolved(config))
        hook = plugins.manager.hook
        hook.grpo_run_started(run_directory=str(directory.path), config=resolved(config))
        hook.grpo_step_finished(step=1, metrics={"step": 1, "reward_mean": 0.25})
        if self.error is not None:
            raise self.error
        hook.grpo_run_finished(summary=self.summary)
        return self.summary


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    stand_ins = {
        "grpo_core.training.preflight": SimpleNamespace(preflight=backend.preflight),
        "grpo_core.training.run": SimpleNamespace(train=backend.train),
    }
    for name, module in stand_ins.items():
        monkeypatch.setitem(sys.modules, name, module)
    return backend


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "my.toml").write_text('seed = 7\n[task]\nname = "sums"\n')
    return tmp_path


def grpo(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_train_without_a_config_runs_the_main_job(backend: Backend, here: Path) -> None:
    result = grpo("train")
    assert result.exit_code == 0, result.stderr
    (_, config, _), (_, trained, path, resume) = backend.calls
    assert config == trained and config.task.name == "arithmetic" and not resume
    assert path.parent == Path("runs")
    assert "step 1/" in result.stdout and "finished after 1 steps" in result.stdout


def test_train_with_config_overrides_plugin_and_output(backend: Backend, here: Path) -> None:
    result = grpo(
        "train", "my.toml", "--set", "trainer.steps=5", "--set", "seed=9",
        "--plugin", "mine.py", "--output", "out/mine",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (_, config, sources), (_, _, path, _) = backend.calls
    assert (config.trainer.steps, config.seed, config.task.name) == (5, 9, "sums")
    assert sources.files == (str(here / "mine.py"),)
    assert path == Path("out/mine") and (here / "out/mine/checkpoints").is_dir()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.toml"], "cannot read config nowhere.toml"),
        (["--set", "trainer.step=5"], "Did you mean 'steps'?"),
        (["--set", "trainer.steps"], "--set needs KEY=VALUE"),
        (["--plugin", "nowhere.py"], "nowhere.py does not exist"),
    ],
)
def test_wrong_settings_are_told_before_work(
    backend: Backend, here: Path, arguments: list[str], message: str
) -> None:
    result = grpo("train", *arguments)
    assert result.exit_code == 2 and message in result.stderr
    assert backend.calls == [] and not (here / "runs").exists()


def test_failed_check_ends_the_command(backend: Backend, here: Path) -> None:
    backend.checks.append(Check("rehearsal", False, "the verifier [x] failed"))
    result = grpo("train")
    assert result.exit_code == 2
    assert "error: the verifier [x] failed" in result.stderr
    assert [call[0] for call in backend.calls] == ["preflight"]
    assert not (here / "runs").exists()


def test_dry_run_prints_the_checks_and_stops(backend: Backend, here: Path) -> None:
    result = grpo("train", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.split()[-3:] == ["ok", "settings", "consistent"]
    assert [call[0] for call in backend.calls] == ["preflight"]
    assert not (here / "runs").exists()

    backend.checks.append(Check("task", False, "no prompts"))
    result = grpo("train", "--dry-run")
    assert result.exit_code == 2 and "failed" in result.stdout


def test_used_output_is_refused_before_the_checks(backend: Backend, here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / "file").write_text("")
    result = grpo("train", "--output", "full")
    assert result.exit_code == 1
    assert "Choose another --output; if a run is in it, 'grpo train --resume'" in result.stderr
    assert backend.calls == []


def test_interrupted_run_says_how_to_go_on(backend: Backend, here: Path) -> None:
    backend.summary = {"status": "interrupted", "steps": 1}
    result = grpo("train", "--output", "out x", "--plugin", "mine.py")
    assert result.exit_code == 130
    command = f"grpo train --resume --output 'out x' --plugin {here / 'mine.py'}"
    assert command in result.stderr


def test_failed_run_is_a_message(backend: Backend) -> None:
    backend.error = TrainingError("loss is not finite")
    result = grpo("train")
    assert result.exit_code == 1
    assert result.stderr.endswith("error: loss is not finite\n")


def test_resume_takes_the_runs_own_config(backend: Backend, here: Path) -> None:
    assert grpo("train", "--output", "out", "--set", "seed=9").exit_code == 0
    backend.calls.clear()
    result = grpo("train", "--resume", "--output", "out", "--set", "trainer.steps=77")
    assert result.exit_code == 0, result.stderr
    _, (_, config, path, resume) = backend.calls
    assert (config.seed, config.trainer.steps, path, resume) == (9, 77, Path("out"), True)


def test_resume_without_output_picks_the_newest_run(backend: Backend, here: Path) -> None:
    for age, name in enumerate(["new", "old"]):
        run = RunDirectory.create(name)
        run.write_config(resolved(load_config(here / "my.toml")))
        os.utime(run.path / "config.json", (1e9 - age, 1e9 - age))
    result = grpo("train", "--resume")
    assert backend.calls[-1][2] == Path("runs/new")
    assert "resuming the newest run, runs/new" in result.stderr


def test_resume_of_nothing(backend: Backend) -> None:
    result = grpo("train", "--resume")
    assert result.exit_code == 1 and "there is no run in runs/" in result.stderr
    result = grpo("train", "--resume", "--output", "none")
    assert result.exit_code == 1 and "there is no run at none" in result.stderr


def test_resume_refuses_changed_plugins_unless_told_to(backend: Backend, here: Path) -> None:
    run = RunDirectory.create("run", "")
    run.write_config({})
    plugins = [
        {"name": "gone", "origin": "gone 1.0", "source_hash": "x"},
        {"name": "mine", "origin": "mine.py", "source_hash": "other"},
    ]
    run.write_manifest({"plugins": plugins})
    resume = ("train", "--resume", "--output", "run", "--plugin", "mine.py")
    result = grpo(*resume)
    assert result.exit_code == 2 and not backend.calls
    assert "since the run was started, plugin 'gone' (gone 1.0) went missing" in result.stderr
    assert "the code of plugin 'mine'" in result.stderr
    assert "--accept-plugin-changes" in result.stderr
    accepted = grpo(*resume, "--accept-plugin-changes")
    assert accepted.exit_code == 0 and backend.calls
    assert "warning: since the run was started, plugin 'gone'" in accepted.stderr
