"""Verifiers that only watch: their disagreement is measured, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from grpo_core.assembly import chosen_verifiers
from grpo_core.cli.panel import shadow_rates, step_line
from grpo_core.cli.progress import Progress
from grpo_core.config import RunConfig, resolved
from grpo_core.errors import ConfigError
from grpo_core.plugin_manager import PluginSources, load_plugins
from grpo_core.records.run_directory import RunDirectory
from grpo_core.training.metrics import shadow_metrics
from grpo_core.training.run import train
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict
from grpo_core.validation import build
from tiny_model import save_tiny_model

PLUGIN = str(Path(__file__).with_name("letter_plugin.py"))
SOURCES = PluginSources(files=(PLUGIN,), use_entry_points=False)


def run(model: Path, path: Path, *verifiers: dict[str, Any]) -> RunDirectory:
    config = build(
        RunConfig,
        {
            "model": {"path": str(model)},
            "task": {"name": "letters"},
            "sampling": {"max_new_tokens": 8},
            "grpo": {"group_size": 8, "prompts_per_step": 4},
            "trainer": {"dtype": "float32", "steps": 2, "learning_rate": 1e-2},
            "evaluation": {"num_prompts": 4, "num_samples": 2},
            "verifiers": list(verifiers),
        },
    )
    directory = RunDirectory.create(path, base="")
    train(config, load_plugins(SOURCES), SOURCES, directory)
    return directory


def test_a_shadow_is_measured_and_changes_nothing(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    judge = {"name": "many_letters"}
    watching = {"name": "moody", "shadow_rate": 0.5}  # raises on every second completion
    alone = run(model, tmp_path / "alone", judge)
    watched = run(model, tmp_path / "watched", judge, watching)
    weights = [load_file(d.checkpoints / "step-000002/model.safetensors") for d in (alone, watched)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])

    for line in watched.read_metrics():
        rollouts = [r for g in watched.read_rollouts(line["step"]) for r in g.rollouts]
        seen = [r for r in rollouts if "moody" in r.verdicts]
        pairs = [(r.judgement, r.verdicts["moody"]) for r in seen]
        both = [(j, s) for j, s in pairs if s.status.is_candidates]
        assert 0 < len(seen) < len(rollouts) and 0 < len(both) < len(seen)
        assert all(set(r.components) == {"many_letters"} and r.is_valid for r in rollouts)
        assert line["shadow/moody/asked"] == len(seen)
        assert line["shadow/moody/failed"] == len(seen) - len(both)
        differing = sum(j.is_correct != s.is_correct for j, s in both)
        assert line["shadow/moody/disagreement"] == pytest.approx(differing / len(both))
    # It does not watch evaluations, and the page shows how it disagrees.
    assert all(
        set(r.verdicts) == {"many_letters"}
        for group in watched.read_evaluation_rollouts(2)
        for r in group.rollouts
    )
    assert "moody disagrees" in watched.report.read_text()
    assert json.loads((watched.path / "manifest.json").read_text())["verifiers"][1]["name"] == (
        "moody"
    )


def test_the_tasks_own_verifier_judges_where_only_shadows_are_listed() -> None:
    plugins = load_plugins(SOURCES)
    task = plugins.tasks.create("letters", {})
    only = build(RunConfig, {"verifiers": [{"name": "moody", "shadow_rate": 1.0}]})
    assert [v.name for v in chosen_verifiers(only, task)] == ["many_letters", "moody"]
    twice = build(RunConfig, {"verifiers": [{"name": "many_letters", "shadow_rate": 1.0}]})
    with pytest.raises(ConfigError, match="'many_letters' is listed twice"):
        chosen_verifiers(twice, task)
    with pytest.raises(ConfigError, match="shadow_rate"):
        build(RunConfig, {"verifiers": [{"name": "moody", "shadow_rate": 0}]})
    with pytest.raises(ConfigError, match="gives no reward"):
        build(RunConfig, {"verifiers": [{"name": "moody", "shadow_rate": 0.5, "weight": 3}]})
    again = build(RunConfig, resolved(only))  # as a resume reads it
    assert again == only


def test_disagreement_is_over_what_both_judged() -> None:
    prompt = Prompt("p", [{"role": "user", "content": "?"}], None)
    right, wrong = Verdict.correct(), Verdict.wrong()
    rows = [(right, right), (right, wrong), (wrong, right), (wrong, wrong), (wrong, right),
            (right, Verdict.error()), (Verdict.timeout(), right), (right, None)]  # fmt: skip
    rollouts = [
        Rollout(Completion((1,), "x", (0.0,), "eos"), {"j": j} if s is None else {"j": j, "s": s})
        for j, s in rows
    ]
    found = shadow_metrics([RolloutGroup(prompt, (1,), rollouts)], ["s", "never"])
    assert found["shadow/s/disagreement"] == pytest.approx(3 / 5)
    assert found["shadow/s/accepts"] == pytest.approx(2 / 5)
    assert (found["shadow/s/asked"], found["shadow/s/failed"]) == (7, 1)
    assert found["shadow/never/disagreement"] != found["shadow/never/disagreement"]
    progress = Progress(metrics=[{"step": 1, **found}])
    assert shadow_rates(progress).startswith("s 60.0%")
    assert "shadows s 60.0%" in step_line(progress)
    assert shadow_rates(Progress()) == ""
