"""The manifest says what a run was made with, and no secrets."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from grpo_core import __version__
from grpo_core.records.manifest import build_manifest, git_state, hardware
from grpo_core.registry import PluginInfo

PLUGIN = PluginInfo("mine", "/home/me/mine.py", "", "ab12")


def test_manifest_names_versions_plugins_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecret")
    manifest = build_manifest(
        plugins=[PLUGIN],
        verifiers=[{"name": "math", "version": "1.2"}],
        seed=3,
        command=["grpo", "train", "--set", "judge.api_key=abc"],
    )
    assert manifest["grpo_core"] == __version__
    assert manifest["seed"] == 3
    assert manifest["plugins"] == [
        {"name": "mine", "origin": "/home/me/mine.py", "version": "", "source_hash": "ab12"}
    ]
    assert manifest["verifiers"] == [{"name": "math", "version": "1.2"}]
    assert manifest["packages"]["torch"] and "pydantic" in manifest["packages"]
    assert manifest["command"][-1] == "judge.api_key=[redacted]"
    assert "secret" not in json.dumps(manifest)


def test_hardware_is_filled_in() -> None:
    found = hardware()
    assert found["cpu"] and found["cores"] >= 1 and found["memory_mb"] > 100
    assert isinstance(found["gpus"], list)


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    state = git_state(tmp_path)
    assert state is not None and len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "new").write_text("")
    assert git_state(tmp_path) == {**state, "dirty": True}


def test_missing_tools_are_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None
    assert hardware()["gpus"] == []
