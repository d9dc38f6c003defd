"""`grpo eval` around stand-ins for the modules that need torch, and `grpo report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grpo_core.cli.main import cli
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import Plugins, PluginSources
from grpo_core.records.run_directory import RunDirectory
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict

ESTIMATE = {"mean": 0.5, "low": 0.4, "high": 0.6}
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


class Backend:
    """Stands in for the modules that need torch, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def evaluate_model(
        self, config: RunConfig, plugins: Plugins, sources: PluginSources
    ) -> tuple[dict[str, Any], list[RolloutGroup]]:
        self.calls.append(("evaluate", config))
        plugins.manager.hook.grpo_progress(phase="evaluate", done=1, total=2)
        prompt = Prompt("p", ({"role": "user", "content": "q"},), "1")
        completion = Completion((1,), "1", (-0.5,), "eos")
        group = RolloutGroup(prompt, (1,), (Rollout(completion, {"yes": Verdict.correct()}),))
        result = {
            "task": config.task.name,
            "split": "test",
            "num_prompts": 2,
            "num_samples": 4,
            "temperature": config.evaluation.temperature,
            "pass_at_1": ESTIMATE,
            "pass_at_k": {"1": ESTIMATE, "2": {"mean": 0.75, "low": 0.5, "high": 1.0}},
            "statuses": {"correct": 4, "wrong": 3, "timeout": 1},
            "truncated_share": 0.125,
            "completion_length_mean": 12.0,
            "seconds": 3.0,
            "by_level": {"2": ESTIMATE},
        }
        return result, [group]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    backend = Backend()
    stand_ins = {
        "grpo_core.evaluation.run": SimpleNamespace(evaluate_model=backend.evaluate_model),
        "grpo_core.assembly": SimpleNamespace(
            create_task=lambda config, plugins: plugins.tasks[config.task.name].load(),
            chosen_verifiers=lambda config, task: [SimpleNamespace(name=task.default_verifier)],
        ),
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


# grpo eval


def test_eval_prints_rates_with_intervals(backend: Backend) -> None:
    result = grpo(
        "eval", "--model", "some/model", "--task", "sums", "--plugin", "mine.py",
        "--num-samples", "4", "--num-prompts", "2", "--temperature", "0.5",
        "--max-new-tokens", "9", "--seed", "3", "--split", "test", "--set", "sampling.top_k=5",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    config = backend.calls[0][1]
    assert config.model.path == "some/model" and config.seed == 3
    assert (config.sampling.max_new_tokens, config.sampling.top_k) == (9, 5)
    evaluation = config.evaluation
    assert (evaluation.num_prompts, evaluation.num_samples) == (2, 4)
    assert (evaluation.split, evaluation.temperature) == ("test", 0.5)
    words = " ".join(result.stdout.split())
    for expected in (
        "sums, split test: 2 prompts × 4 samples", "pass@1 50.0% 40.0% to 60.0%",
        "pass@2 75.0% 50.0% to 100.0%", "pass@1, level 2 50.0%", "timeout 1 12.5%",
        "truncated 12.5%",
    ):  # fmt: skip
        assert expected in words, expected


def test_eval_as_json_and_kept_in_a_folder(backend: Backend, here: Path) -> None:
    result = grpo(
        "eval", "--model", "m", "--task", "sums", "--plugin", "mine.py",
        "--json", "--output", "kept",
    )  # fmt: skip
    assert json.loads(result.stdout)["pass_at_1"] == ESTIMATE
    kept = RunDirectory.open(here / "kept")
    assert kept.read_evaluations()[0]["pass_at_1"] == ESTIMATE
    assert kept.read_evaluation_rollouts(0)[0].prompt.id == "p"
    assert kept.read_manifest()["verifiers"] == [{"name": "yes", "version": "3"}]


def test_eval_needs_model_and_task(backend: Backend) -> None:
    assert "Missing option '--model'" in grpo("eval", "--task", "sums").stderr
    assert "Missing option '--task'" in grpo("eval", "--model", "m").stderr


def test_eval_takes_other_settings_from_a_config(backend: Backend, here: Path) -> None:
    result = grpo("eval", "--config", "my.toml", "--model", "m", "--plugin", "mine.py")
    assert result.exit_code == 0, result.stderr
    config = backend.calls[0][1]
    assert (config.task.name, config.model.path, config.seed) == ("sums", "m", 7)


def test_eval_of_an_unknown_task_offers_the_nearest(backend: Backend) -> None:
    result = grpo("eval", "--model", "m", "--task", "sumz", "--plugin", "mine.py")
    assert result.exit_code == 2 and "Did you mean 'sums'?" in result.stderr
    assert backend.calls == []


# grpo report


def test_report_builds_the_page(here: Path) -> None:
    run = RunDirectory.create("run", "")
    run.write_config({})
    run.write_evaluation(0, {"step": 0, "pass_at_1": ESTIMATE})
    result = grpo("report", "run")
    assert result.exit_code == 0 and result.stdout == "run/report.html\n"
    assert "50.0%" in (here / "run/report.html").read_text()


def test_report_of_no_run() -> None:
    result = grpo("report", "nowhere")
    assert result.exit_code == 1 and "there is no run at nowhere" in result.stderr
