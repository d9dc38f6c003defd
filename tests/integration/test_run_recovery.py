"""Runs that are stopped or fail in this process, and what a resume makes of them."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grpo_core.config import RunConfig
from grpo_core.errors import CheckpointError, ConfigError
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.run import train
from grpo_core.validation import build
from tiny_model import save_tiny_model

SOURCES = PluginSources((str(Path(__file__).with_name("letter_plugin.py")),), False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def config(model: Path, steps: int = 4, **trainer: Any) -> RunConfig:
    return build(
        RunConfig,
        {
            "model": {"path": str(model), "dtype": "float32"},
            "task": {"name": "letters"},
            "sampling": {"max_new_tokens": 8},
            "grpo": {"group_size": 4, "prompts_per_step": 4},
            "trainer": {"steps": steps, "learning_rate": 1e-2, "warmup_steps": 0, **trainer},
            "evaluation": {"num_prompts": 8, "num_samples": 2, "every": 2},
        },
    )


def run(config: RunConfig, path: Path, *extra: object, resume: bool = False) -> dict[str, Any]:
    plugins = load_plugins(SOURCES, extra=extra)
    directory = RunDirectory.open(path) if resume else RunDirectory.create(path, base="")
    return train(config, plugins, SOURCES, directory, resume=resume)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "whole"
    run(config(model, save_every=1, keep_checkpoints=9), path)
    return path


def weights(path: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(path / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def assert_equal_weights(one: Path, other: Path, step: int) -> None:
    first, second = weights(one, step), weights(other, step)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights, evaluations, and idea of what was best."""
    first, second = (RunDirectory.open(path) for path in (one, other))
    for key in ("status", "steps", "best", "tokens", "pass_at_1_before", "pass_at_1_after"):
        assert first.read_summary()[key] == second.read_summary()[key], key
    steps = [[line["step"] for line in d.read_evaluations()] for d in (first, second)]
    assert steps[0] == steps[1]
    assert_equal_weights(one, other, first.read_summary()["steps"])


class PressCtrlC:
    """At the first sign of a phase after a number of steps."""

    def __init__(self, phase: str, steps: int) -> None:
        self.phase, self.steps, self.done = phase, steps, 0

    @hookimpl
    def grpo_step_finished(self, step: int) -> None:
        self.done = step

    @hookimpl
    def grpo_progress(self, phase: str) -> None:
        if (phase, self.done) == (self.phase, self.steps):
            self.phase = ""
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("phase", "steps"),
    [("evaluate", 0), ("sample", 0), ("sample", 1), ("evaluate", 2), ("evaluate", 4)],
)
def test_ctrl_c_changes_nothing(
    model: Path, whole: Path, tmp_path: Path, phase: str, steps: int
) -> None:
    summary = run(config(model), tmp_path / "run", PressCtrlC(phase, steps))
    assert (summary["status"], summary["steps"]) == ("interrupted", steps)
    run(config(model), tmp_path / "run", resume=True)
    assert_same_run(whole, tmp_path / "run")


class BlockRollouts:
    """Puts a file where the completions of later steps would go."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    @hookimpl
    def grpo_rollouts_scored(self, step: int) -> None:
        if step == self.step:
            self.path.rename(self.path.with_name("elsewhere"))
            self.path.touch()


def test_weights_are_never_saved_under_an_older_step(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    """What fails after the update of step 2 must not leave its weights as those of step 1."""
    path = tmp_path / "run"
    with pytest.raises(CheckpointError, match=r"cannot write .*rollouts"):
        run(config(model), path, BlockRollouts(path / "rollouts", 2))
    summary = RunDirectory.open(path).read_summary()
    assert (summary["status"], summary["steps"]) == ("failed", 2)
    assert_equal_weights(path, whole, 2)

    (path / "rollouts").unlink()
    (path / "elsewhere").rename(path / "rollouts")
    run(config(model), path, resume=True)
    assert_same_run(whole, path)


def test_a_failing_observer_leaves_a_checkpoint_of_the_step(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    class Failing:
        @hookimpl
        def grpo_step_finished(self, step: int) -> None:
            if step == 3:
                raise ZeroDivisionError("observer")

    with pytest.raises(ZeroDivisionError):
        run(config(model), tmp_path / "run", Failing())
    assert_equal_weights(tmp_path / "run", whole, 3)


def test_a_resume_with_other_settings_is_refused(model: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"trainer\.learning_rate: 0\.01 in the run, 0\.1 now"):
        run(config(model, steps=9, learning_rate=0.1), tmp_path / "run", resume=True)


def test_a_finished_run_is_left_alone(model: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    moments = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    summary = run(config(model), tmp_path / "run", resume=True)
    assert summary == RunDirectory.open(whole).read_summary()
    assert moments == {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}


def test_what_a_resume_changes_is_kept_for_the_next_one(
    model: Path, whole: Path, tmp_path: Path
) -> None:
    """The resume command that is printed names no settings: they come from the run's own config."""
    shutil.copytree(whole, tmp_path / "run")
    summary = run(config(model, steps=6), tmp_path / "run", PressCtrlC("sample", 5), resume=True)
    assert (summary["status"], summary["steps"]) == ("interrupted", 5)
    stored = RunDirectory.open(tmp_path / "run").read_config()
    assert stored["trainer"]["steps"] == 6
    summary = run(build(RunConfig, stored), tmp_path / "run", resume=True)
    assert (summary["status"], summary["steps"]) == ("finished", 6)


def test_the_reference_of_a_resumed_run_is_the_starting_model(model: Path, tmp_path: Path) -> None:
    settings = config(model).model_dump()
    settings["grpo"]["beta"] = 0.1
    with_kl = build(RunConfig, settings)
    run(with_kl, tmp_path / "whole")
    run(with_kl, tmp_path / "halves", PressCtrlC("sample", 2))
    run(with_kl, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    lines = [RunDirectory.open(tmp_path / n).read_metrics() for n in ("whole", "halves")]
    assert [line["kl"] for line in lines[0]] == [line["kl"] for line in lines[1]]
    assert lines[0][-1]["kl"] > 1e-4
