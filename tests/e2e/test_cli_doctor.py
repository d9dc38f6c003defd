"""`grpo doctor` as a user runs it: what it prints, its JSON, and its exit code."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from cli_process import LETTERS, PLUGINS, Desk
from grpo_core.cli.doctor import _total
from grpo_core.cli.main import cli
from grpo_core.training.doctor.finding import Finding, Grade
from tiny_model import TEMPLATE

SLOW = ("model", "sampling", "hand-over of weights", "micro-batch invariance")


def statuses(output: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(output)["checks"]}


@pytest.fixture
def grpo(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process, which saves the seconds that importing torch takes."""
    monkeypatch.chdir(desk.path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["doctor", *arguments])

    return run


def spoilt_model(desk: Desk) -> Path:
    """A copy of the tiny model that run.toml names in its place."""
    target = (desk.path / "tiny").resolve()
    (desk.path / "tiny").unlink()
    return Path(shutil.copytree(target, desk.path / "tiny"))


def test_a_sound_setup_passes(desk: Desk) -> None:
    result = desk.grpo("doctor", "run.toml", *PLUGINS, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["ok"] is True and found["counts"]["problem"] == 0
    by_name = {check["name"]: check for check in found["checks"]}
    for name in ("settings", "verifier pool", "containment", "weights", "model", "sampler gap",
                 "micro-batches", "shared prompts", "gradient reach"):  # fmt: skip
        assert by_name[name]["status"] == "ok", by_name[name]
    assert by_name["micro-batches"]["numbers"]["difference"] < 1e-4
    assert set(found["checks"][0]) == {"name", "status", "found", "cure", "numbers"}


def test_what_is_wrong_is_said_with_its_cure_and_the_rest_goes_on(desk: Desk, grpo: Any) -> None:
    folder = spoilt_model(desk)
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("<|end|>", "<|system|>"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = grpo("run.toml", *PLUGINS, "--set", "verification.workers=1")
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "problem end of turn" in text and "Add 3 to eos_token_id" in text
    assert "problem model" in text and "model.norm.weight" in text
    assert "skipped sampling it rests on 'model'" in text
    assert "ok round trip" in text and "2 problems" in text


def test_counts_are_in_the_right_number() -> None:
    findings = [Finding("a", Grade.WARNING, ""), *[Finding("b", Grade.PROBLEM, "")] * 2]
    assert _total(findings).endswith("3 checks: 0 ok, 1 warning, 2 problems, 0 skipped")


def test_quick_leaves_out_what_loads_the_model(grpo: Any) -> None:
    result = grpo("run.toml", *PLUGINS, "--quick", "--json")
    assert result.exit_code == 0, result.output
    found = statuses(result.stdout)
    assert {found[name] for name in SLOW} == {"skipped"}
    assert found["tokenizer"] == found["end of turn"] == "ok"


def test_a_missing_model(grpo: Any) -> None:
    result = grpo("run.toml", *PLUGINS, "--quick", "--json", "--set", "model.path=./gone")
    assert result.exit_code == 1
    found = statuses(result.stdout)
    assert found["weights"] == "problem" and found["tokenizer"] == "skipped"
    assert found["verifier pool"] == found["containment"] == "ok"


@pytest.mark.slow
def test_without_a_config_the_main_job_is_looked_at(grpo: Any) -> None:
    result = grpo("--quick", "--json", "--set", "model.path=tiny", "--plugin", str(LETTERS))
    found = statuses(result.stdout)
    assert found["verdicts of 'math': references"] == found["task"] == "ok"
    assert found["weights"] == "ok"


def test_a_wrong_setting_is_the_callers_fault(grpo: Any) -> None:
    result = grpo("run.toml", "--set", "grpo.group_sise=4")
    assert result.exit_code == 2 and "group_size" in result.stderr


def test_settings_that_contradict_each_other_are_a_finding(grpo: Any) -> None:
    result = grpo("run.toml", *PLUGINS, "--quick", "--json", "--set", "grpo.group_size=1")
    assert result.exit_code == 1
    found = statuses(result.stdout)
    assert found["settings"] == "problem" and found["verifier pool"] == "ok"


def test_without_torch_it_still_answers(grpo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = grpo("run.toml", "--json")
    assert result.exit_code == 1
    found = statuses(result.stdout)
    assert found["torch"] == "problem" and found["packages"] == "ok"
    assert found["plugins"] == found["everything else"] == "skipped"
    assert "sandbox layers" in found
