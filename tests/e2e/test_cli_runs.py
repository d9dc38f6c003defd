"""`grpo train` and `grpo eval` as processes: a tiny model, real verifier workers, real files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from cli_process import (
    LETTERS,
    PLUGINS,
    Desk,
    assert_same_outcome,
    needs_entry_points,
    read_json,
    snapshot,
)
from grpo_core.records.run_directory import RunDirectory

# A finished run


def test_a_run_prints_plain_lines(whole_desk: Desk) -> None:
    out = (whole_desk.path / "out").read_text()
    lines = out.splitlines()
    assert lines[0] == "run whole: letters, tiny"
    assert [line.split("  ")[0] for line in lines if line.startswith("step ")] == [
        "step 1/4", "step 2/4", "step 3/4", "step 4/4",
    ]  # fmt: skip
    evaluations = [line for line in lines if line.startswith("evaluation after step")]
    assert [line.split()[3] for line in evaluations] == ["0:", "2:", "4:"]
    assert re.search(r"pass@1 [\d.]+% \([\d.]+% to [\d.]+%\) on 8 prompts x 2 samples", out)
    assert "finished after 4 steps" in out
    assert "checkpoint: whole/checkpoints/step-000004" in lines
    assert lines[-1] == "report: whole/report.html"
    assert "\x1b" not in out  # no terminal, no colours, no cursor movements
    assert (whole_desk.path / "err").read_text() == "checking the run\n"


def test_a_run_leaves_its_files(whole_run: Path) -> None:
    directory = RunDirectory.open(whole_run)
    assert [line["step"] for line in directory.read_metrics()] == [1, 2, 3, 4]
    assert [result["step"] for result in directory.read_evaluations()] == [0, 2, 4]
    assert directory.rollout_steps == [1, 2, 3, 4]
    assert len(directory.read_rollouts(4)) == 4
    assert len(directory.read_evaluation_rollouts(4)) == 8
    config = directory.read_config()
    assert (config["model"]["path"], config["trainer"]["save_every"]) == ("tiny", 3)
    manifest = directory.read_manifest()
    assert manifest["verifiers"] == [{"name": "fragile", "version": "7"}]
    names = {plugin["name"]: plugin["source_hash"] for plugin in manifest["plugins"]}
    assert len(names["letter_plugin"]) == len(names["moments_plugin"]) == 64
    checkpoint = {file.name for file in (whole_run / "checkpoints" / "step-000004").iterdir()}
    assert {
        "config.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json",
        "trainer_state.json",
    } <= checkpoint  # fmt: skip
    assert not [file for file in whole_run.rglob(".*")]  # nothing half written


def test_the_summary_has_intervals(whole_run: Path) -> None:
    summary = read_json(whole_run / "summary.json")
    assert (summary["status"], summary["error"], summary["steps"]) == ("finished", None, 4)
    for key in ("pass_at_1_before", "pass_at_1_after"):
        rate = summary[key]
        assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1
    assert summary["seconds"] > 0


def test_the_report_needs_nothing_else(whole_run: Path) -> None:
    page = (whole_run / "report.html").read_text()
    assert "<svg" in page and "held-out pass@1" in page
    loads = r"""(?:src|srcset|data|poster|href)\s*=\s*["']?|url\(|@import\s+["']?"""
    targets = re.findall(rf"(?:{loads})([^\s\"'>)]*)", page)
    assert not [target for target in targets if not target.startswith(("#", "data:"))]
    assert not re.search(r"<(script|link|iframe|object|embed|base)\b", page)


def test_the_folder_of_a_run_is_not_used_twice(desk: Desk, whole_run: Path) -> None:
    shutil.copytree(whole_run, desk.path / "whole")
    result = desk.train("--output", "whole")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "error: whole is not empty. Choose another --output; if a run is in it, "
        "'grpo train --resume' goes on with it.\n"
    )
    assert snapshot(desk.path / "whole") == snapshot(whole_run)


def test_a_finished_run_is_left_alone(desk: Desk, whole_run: Path) -> None:
    shutil.copytree(whole_run, desk.path / "whole")
    result = desk.grpo("train", "--resume", "--output", "whole", *PLUGINS)
    assert result.returncode == 0
    assert result.stdout.startswith("whole is finished: all 4 steps are done")
    assert "raise trainer.steps" in result.stdout
    assert snapshot(desk.path / "whole") == snapshot(whole_run)


def test_a_resume_with_other_settings_is_refused(desk: Desk, whole_run: Path) -> None:
    shutil.copytree(whole_run, desk.path / "whole")
    changes = ("sampling.temperature=0.5", "verifiers.0.weight=2", "trainer.steps=9")
    sets = [part for change in changes for part in ("--set", change)]
    result = desk.grpo("train", "--resume", "--output", "whole", *PLUGINS, *sets)
    assert (result.returncode, result.stdout) == (2, "")
    assert "sampling.temperature: 1.0 in the run, 0.5 now" in result.stderr
    assert "verifiers.0.weight: 1.0 in the run, 2.0 now" in result.stderr
    assert "trainer.steps:" not in result.stderr
    assert snapshot(desk.path / "whole") == snapshot(whole_run)


@pytest.mark.slow
def test_a_finished_run_may_go_on_longer(desk: Desk) -> None:
    more = ("--set", "trainer.steps=6", "--set", "evaluation.every=4")
    assert desk.train("--output", "long", *more).returncode == 0
    assert desk.train("--output", "halves", "--set", "evaluation.every=4").returncode == 0
    result = desk.grpo("train", "--resume", "--output", "halves", *PLUGINS, *more)
    assert result.returncode == 0, result.stderr
    # The first sitting ended with an evaluation of all prompts, the long run took a smaller one.
    one, two = (RunDirectory.open(desk.path / name) for name in ("long", "halves"))
    assert one.read_config() == two.read_config()
    assert one.read_summary()["pass_at_1_after"] == two.read_summary()["pass_at_1_after"]
    files = [
        (desk.path / name / "checkpoints" / "step-000006" / "model.safetensors").read_bytes()
        for name in ("long", "halves")
    ]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_run_outlives_who_reads_its_output(desk: Desk) -> None:
    """`grpo train | head -1`: the reader is gone while the run has most of its steps to do."""
    command = f'"{sys.executable}" -m grpo_core train run.toml --output run {" ".join(PLUGINS)}'
    result = desk.run("sh", "-c", f"{command} | head -1")
    assert result.stdout == "run run: letters, tiny\n" and "Traceback" not in result.stderr
    assert read_json(desk.path / "run" / "summary.json")["status"] == "finished"


@needs_entry_points
@pytest.mark.slow
def test_installed_plugins_train_without_a_plugin_file(desk: Desk) -> None:
    desk.put(
        "sums.toml",
        'model = {path = "tiny"}\n'
        'task = {name = "arithmetic", options = {levels = ["add1"], train_size = 20, '
        "test_size = 8}}\n"
        "sampling = {max_new_tokens = 8}\ntrainer = {steps = 2, dtype = 'float32'}\n"
        "grpo = {group_size = 4, prompts_per_step = 4}\n"
        "evaluation = {num_prompts = 8, num_samples = 2}\n",
    )
    result = desk.grpo("train", "sums.toml", "--output", "run")
    assert result.returncode == 0, result.stderr
    manifest = read_json(desk.path / "run" / "manifest.json")
    assert [verifier["name"] for verifier in manifest["verifiers"]] == ["math"]
    origins = {plugin["name"]: plugin["origin"] for plugin in manifest["plugins"]}
    assert origins["grpo_tasks"].startswith("grpo-core")


# grpo eval


def test_eval_of_a_checkpoint_repeats_exactly(whole_desk: Desk, whole_run: Path) -> None:
    """As the run saw it: an evaluation is a function of weights, settings, and seed."""
    config = ("--config", "whole/config.json", "--model", "whole/checkpoints/step-000004")
    result = whole_desk.grpo("eval", *config, *PLUGINS, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    (recorded,) = RunDirectory.open(whole_run).read_evaluations()[-1:]
    assert found["pass_at_k"] == recorded["pass_at_k"]
    assert found["statuses"] == recorded["statuses"]
    assert found["completion_length_mean"] == recorded["completion_length_mean"]


def test_eval_prints_json(desk: Desk) -> None:
    arguments = ("--model", "tiny", "--task", "letters", "--plugin", str(LETTERS), "--json")
    sizes = ("--num-samples", "4", "--num-prompts", "8", "--max-new-tokens", "8")
    found = []
    for _ in range(2):
        ended = desk.grpo("eval", *arguments, *sizes, "--seed", "3")
        assert ended.returncode == 0, ended.stderr
        found.append(json.loads(ended.stdout))
        del found[-1]["seconds"]
    assert found[0] == found[1]
    result = found[0]
    assert (result["num_prompts"], result["num_samples"], result["num_judged"]) == (8, 4, 32)
    assert list(result["pass_at_k"]) == ["1", "2", "4"]
    for rate in result["pass_at_k"].values():
        assert 0 <= rate["low"] <= rate["mean"] <= rate["high"] <= 1
    assert result["pass_at_1"] == result["pass_at_k"]["1"]
    assert sum(result["statuses"].values()) == 32


@pytest.mark.slow
@needs_entry_points
def test_eval_with_installed_plugins(desk: Desk) -> None:
    sizes = ("--num-samples", "4", "--num-prompts", "4", "--max-new-tokens", "8")
    result = desk.grpo("eval", "--model", "tiny", "--task", "arithmetic", *sizes, "--json")
    assert result.returncode == 0, result.stderr
    assert list(json.loads(result.stdout)["pass_at_k"]) == ["1", "2", "4"]


@pytest.mark.slow
def test_eval_of_a_run_names_its_checkpoints(whole_desk: Desk, whole_run: Path) -> None:
    arguments = ("--model", "whole", "--task", "letters", "--plugin", str(LETTERS))
    result = whole_desk.grpo("eval", *arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "whole is the folder of a run" in result.stderr
    assert "whole/checkpoints/step-000004" in result.stderr


@pytest.mark.slow
def test_two_runs_are_alike(desk: Desk, whole_run: Path) -> None:
    assert desk.train("--output", "again").returncode == 0
    assert_same_outcome(desk.path / "again", whole_run)
