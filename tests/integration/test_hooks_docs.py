"""docs/hooks.md is complete, and every plugin in it runs; after datasette's tests of its docs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from grpo_core import hookspecs
from grpo_core.plugin_manager import PluginSources, load_plugins

ROOT = Path(__file__).parents[2]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("grpo_"))


def section(hook: str) -> str:
    """The text from a hook's heading to the next heading."""
    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.split(f"### `{hook}(", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def signature(hook: str) -> inspect.Signature:
    return inspect.signature(getattr(hookspecs, hook))


@pytest.mark.parametrize("hook", HOOKS)
def test_hook_is_documented_with_its_exact_signature(hook: str) -> None:
    parameters = ", ".join(signature(hook).parameters)
    written = f"def {hook}{signature(hook)}".replace("'", "")
    assert section(hook).startswith(f"{parameters})`\n\n```\n{written}\n```\n")


@pytest.mark.parametrize("hook", HOOKS)
def test_every_argument_is_explained(hook: str) -> None:
    for parameter in signature(hook).parameters:
        assert re.search(rf"^- `{parameter}\b", section(hook), re.MULTILINE), parameter


@pytest.mark.parametrize("hook", HOOKS)
def test_minimal_plugin_is_a_plugin(tmp_path: Path, hook: str) -> None:
    [code] = re.findall(r"```python\n(.*?)```", section(hook), re.DOTALL)
    path = tmp_path / "minimal.py"
    path.write_text(code)
    plugins = load_plugins(PluginSources((str(path),), use_entry_points=False))
    minimal = plugins.manager.get_plugin("minimal")
    implemented = [caller.name for caller in plugins.manager.get_hookcallers(minimal) or ()]
    assert implemented == [hook]
    arguments = inspect.signature(getattr(minimal, hook)).parameters
    assert list(arguments) == list(signature(hook).parameters)


def test_nothing_is_documented_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### `(\w+)\(", text, re.MULTILINE)) == HOOKS


def test_every_hook_has_a_test_of_its_name() -> None:
    names = {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_hook_")
    }
    for hook in HOOKS:
        assert any(name.startswith(f"test_hook_{hook}") for name in names), hook
