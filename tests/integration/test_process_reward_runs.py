"""Whole runs on the rewards of steps, and with learned verifiers in processes of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grpo_core.cli.main import cli
from grpo_core.config import RunConfig
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.preflight import preflight
from grpo_core.training.run import train
from grpo_core.types import Status
from grpo_core.validation import build
from tiny_model import save_tiny_model, tiny_tokenizer
from tiny_scorers import save_scorer, scorer_config, teach, tiny_scorer

HERE = Path(__file__).parent
FILES = tuple(str(HERE / name) for name in ("letter_plugin.py", "step_plugin.py"))
SOURCES = PluginSources(files=FILES, use_entry_points=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def make_config(folder: Path, /, **sections: Any) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"path": str(folder)},
        "task": {"name": "letters"},
        "sampling": {"max_new_tokens": 8},
        "grpo": {"group_size": 4, "prompts_per_step": 4, "advantage": "process"},
        "trainer": {"dtype": "float32", "steps": 3, "learning_rate": 1e-2, "warmup_steps": 0},
        "evaluation": {"num_prompts": 8, "num_samples": 4},
        "verifiers": [{"name": "letter_steps"}],
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return build(RunConfig, values)


def run(
    config: RunConfig, path: Path, sources: PluginSources = SOURCES
) -> tuple[dict[str, Any], RunDirectory]:
    directory = RunDirectory.create(path, base="")
    return train(config, load_plugins(sources), sources, directory), directory


@pytest.mark.slow
def test_a_run_learns_from_the_rewards_of_steps(model: Path, tmp_path: Path) -> None:
    config = make_config(
        model, trainer={"steps": 15}, grpo={"group_size": 8, "prompts_per_step": 8}
    )
    summary, directory = run(config, tmp_path / "run")
    before, after = summary["pass_at_1_before"], summary["pass_at_1_after"]
    assert after["mean"] > before["mean"] + 0.3, (before, after)

    groups = directory.read_rollouts(1)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert any(len(set(rollout.token_advantages)) > 1 for rollout in rollouts)
    for rollout in rollouts:
        completion, steps = rollout.completion, rollout.judgement.steps
        assert len(rollout.token_advantages) == len(completion.token_ids)
        assert completion.token_ends[-1:] in ((), (len(completion.text),))
        assert bool(steps) == bool(completion.text)
        if steps:
            assert steps[-1].end == len(completion.text)
    lines = directory.read_metrics()
    assert lines[0]["zero_signal_share"] < 1 and lines[0]["grad_norm"] > 0


def test_a_recorded_run_is_explained_and_rescored(model: Path, tmp_path: Path) -> None:
    """From what was recorded alone: the tokenizer is not asked again."""
    verifiers = [{"name": "many_letters", "weight": 0.5}, {"name": "letter_steps"}]
    config = make_config(model, trainer={"steps": 1}, verifiers=verifiers)
    _, directory = run(config, tmp_path / "run")
    prompt = directory.read_rollouts(1)[0].prompt.id
    plugins = [part for file in FILES for part in ("--plugin", file)]
    arguments = ["explain", str(directory.path), "--prompt", prompt, *plugins]
    found = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    (group,) = json.loads(found.output)
    assert group["is_reproduced"] is True
    assert any(rollout["steps"] for rollout in group["rollouts"])
    assert "to token" in CliRunner().invoke(cli, arguments, catch_exceptions=False).output
    again = ["rescore", str(directory.path), "--verifier", "letter_steps", *plugins, "--json"]
    result = CliRunner().invoke(cli, again, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["not_reproduced"] == 0


@pytest.mark.parametrize(
    ("sections", "what"),
    [
        ({"verifiers": [{"name": "many_letters"}]}, "no verifier (many_letters) scores any"),
        ({"grpo": {"beta": 0.1, "kl_in": "reward"}}, "kl_in = 'loss'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_training(
    model: Path, sections: dict[str, Any], what: str
) -> None:
    checks = preflight(make_config(model), load_plugins(SOURCES), SOURCES)
    assert all(check.ok for check in checks), checks
    checks = preflight(make_config(model, **sections), load_plugins(SOURCES), SOURCES)
    assert not checks[-1].ok
    assert what in checks[-1].message


@pytest.mark.slow
def test_a_run_with_a_process_reward_model(model: Path, tmp_path: Path) -> None:
    """In a process of its own, taught to like steps without a z; a reward model runs in ours."""
    scorer = tiny_scorer(scorer_config(num_labels=2), tokens=True)
    letters = "abcdez"
    texts = [f"<|user|>speak 3<|end|><|assistant|>{a}{b}<|end|>" for a in letters for b in letters]
    ids = [tiny_tokenizer()(text, add_special_tokens=False)["input_ids"] for text in texts]
    labels = [
        [*[-100] * (len(row) - 3), int(a != "z"), int(b != "z"), -100]
        for row, (a, b) in zip(ids, ((a, b) for a in letters for b in letters), strict=True)
    ]
    teach(scorer, ids, labels, steps=30)
    options = {"path": str(save_scorer(tmp_path / "prm", scorer)), "steps": {"separator": " "}}
    verifiers = [
        {"name": "process_reward", "options": options},
        {"name": "many_letters", "weight": 0.5},
        {
            "name": "reward_model",
            "weight": 0.1,
            "options": {
                "path": str(save_scorer(tmp_path / "rm", tiny_scorer(scorer_config()))),
                "runs_in": "trainer",
                "compute": {"dtype": "bfloat16"},
            },
        },
    ]
    config = make_config(model, verifiers=verifiers, grpo={"num_iterations": 2, "beta": 0.01})
    summary, directory = run(config, tmp_path / "run", replace(SOURCES, use_entry_points=True))
    assert summary["status"] == "finished"
    for group in directory.read_rollouts(3):
        for rollout in group.rollouts:
            scored = rollout.verdicts["process_reward"]
            assert scored.status is not Status.ERROR, scored.reason
            assert bool(scored.steps) == bool(rollout.completion.text.strip())
            assert rollout.verdicts["reward_model"].status is not Status.ERROR
