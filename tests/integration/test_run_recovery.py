"""Runs that are stopped or fail in this process, and what a resume makes of them."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cli_process import snapshot
from grpo_core.config import RunConfig
from grpo_core.errors import CheckpointError, ConfigError
from grpo_core.hookspecs import hookimpl
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.run import train
from grpo_core.validation import build
from run_outcome import compare, outcome
from tiny_model import save_tiny_model

SOURCES = PluginSources((str(Path(__file__).with_name("letter_plugin.py")),), False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def config(model: Path, steps: int = 4, **trainer: Any) -> RunConfig:
    return build(
        RunConfig,
        {
            "model": {"path": str(model)},
            "task": {"name": "letters"},
            "sampling": {"max_new_tokens": 8},
            "grpo": {"group_size": 4, "prompts_per_step": 4},
            "trainer": {
                "dtype": "float32",
                "steps": steps,
                "learning_rate": 1e-2,
                "warmup_steps": 0,
                **trainer,
            },
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


# Files of a run that are not as they were written


@pytest.fixture(scope="module")
def half(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `whole`, interrupted after step 3."""
    path = tmp_path_factory.mktemp("runs") / "half"
    run(config(model, save_every=1, keep_checkpoints=9), path, PressCtrlC("sample", 3))
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_first_line(path: Path) -> None:
    path.write_bytes(b"[" + path.read_bytes()[1:])


MOVE = "or move it away to go on without what is in it"


@pytest.mark.parametrize(
    ("name", "act", "message"),
    [
        ("config.json", cut, r"config.json is damaged.*such as run_config.json in one"),
        ("summary.json", cut, rf"summary.json is damaged.*{MOVE}"),
        ("manifest.json", cut, rf"manifest.json is damaged.*{MOVE}"),
        ("metrics.jsonl", cut, rf"no line of step 2, though there is a checkpoint.*{MOVE}"),
        ("metrics.jsonl", break_first_line, rf"metrics.jsonl is damaged in line 1.*{MOVE}"),
        ("metrics.jsonl", lambda path: path.write_text(""), r"has no line of step 1"),
        ("evaluations/step-000002.json", cut, rf"step-000002.json is damaged.*{MOVE}"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    model: Path, half: Path, tmp_path: Path, name: str, act: Any, message: str
) -> None:
    path = shutil.copytree(half, tmp_path / "run")
    act(path / name)
    before = snapshot(path / "checkpoints")
    with pytest.raises(CheckpointError, match=message):
        run(config(model, save_every=1, keep_checkpoints=9), path, resume=True)
    assert before.items() <= snapshot(path / "checkpoints").items()


@pytest.mark.parametrize(
    "name", ["summary.json", "manifest.json", "metrics.jsonl", "rollouts/step-000002.parquet"]
)
def test_a_run_can_do_without_a_file_that_was_moved_away(
    model: Path, half: Path, whole: Path, tmp_path: Path, name: str
) -> None:
    path = shutil.copytree(half, tmp_path / "run")
    (path / name).unlink()
    steps = config(model, save_every=1, keep_checkpoints=9)
    run(steps, path, PressCtrlC("evaluate", 4), resume=True)
    run(steps, path, resume=True)
    differences = compare(outcome(whole), outcome(path))
    assert differences in (
        [], ["metrics.jsonl differs"], ["rollouts/step-000002.parquet is missing"],
    )  # fmt: skip
    if name == "metrics.jsonl":
        assert [line["step"] for line in RunDirectory.open(path).read_metrics()] == [4]


def test_after_a_damaged_checkpoint_the_one_before_it_leads_to_the_same_end(
    model: Path, half: Path, whole: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(half, tmp_path / "run")
    cut(path / "checkpoints" / "step-000003" / "optimizer.safetensors")
    steps = config(model, save_every=1, keep_checkpoints=9)
    before = snapshot(path)
    with pytest.raises(CheckpointError, match=r"can go on from .*step-000002") as caught:
        run(steps, path, resume=True)
    assert snapshot(path) == before
    move = shlex.split(str(caught.value).splitlines()[-1].partition(" && ")[0])
    Path(move[1]).rename(move[2])
    run(steps, path, resume=True)
    shutil.rmtree(move[2])
    assert compare(outcome(whole), outcome(path)) == []


def test_an_edited_config_is_not_the_one_of_the_checkpoint(
    model: Path, half: Path, tmp_path: Path
) -> None:
    """`grpo train --resume` takes the settings from it, so it agrees with itself."""
    path = shutil.copytree(half, tmp_path / "run")
    settings = json.loads((path / "config.json").read_text())
    settings["trainer"]["learning_rate"] = 0.5
    (path / "config.json").write_text(json.dumps(settings))
    before = snapshot(path)
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.01 in the run, 0\.5 now") as caught:
        run(build(RunConfig, settings), path, resume=True)
    assert "run_config.json" in str(caught.value)
    assert snapshot(path) == before


def test_a_run_killed_while_its_config_was_written_can_be_started_again(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", base="")
    (directory.path / ".config.json.123.tmp").write_text("{")
    RunDirectory.create(tmp_path / "run", base="")
    assert [path for path in directory.path.rglob("*") if path.is_file()] == []
