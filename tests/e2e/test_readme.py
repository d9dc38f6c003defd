"""What the README shows works when pasted."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grpo_core.config import RunConfig, load_config
from grpo_core.validation import build

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    return README.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "my_verifier.py"
    path.write_text(re.search(r"```python\n(.*?)```", block("plugin"), re.S).group(1))
    return path


def grpo(*arguments: str) -> str:
    command = [sys.executable, "-m", "grpo_core", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_plugin_has_at_most_20_lines(plugin: Path) -> None:
    lines = [line for line in plugin.read_text().splitlines() if line.strip()]
    assert len(lines) <= 20


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ("it is 12.3", "correct"),
        ("it is $14.", "wrong"),
        ("no idea", "unparseable"),
        ("", "unparse"),
    ],
)
def test_the_plugin_judges(plugin: Path, completion: str, status: str) -> None:
    arguments = ["--verifier", "within", "--reference", "12", "--completion", completion]
    assert status in grpo("verify", "--plugin", str(plugin), *arguments)


def test_the_plugin_is_described(plugin: Path) -> None:
    shown = grpo("plugins", "describe", "within", "--plugin", str(plugin))
    for part in ("tolerance", "0.5", "1.0", "my_verifier.py"):
        assert part in shown


def test_the_config_is_valid() -> None:
    text = re.search(r"```toml\n(\[model\].*?)```", README, re.S).group(1)
    assert build(RunConfig, tomllib.loads(text)).grpo.prompts_per_step == 16


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    load_config(path)


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
