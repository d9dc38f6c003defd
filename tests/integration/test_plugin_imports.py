"""What imports what, seen in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTENSIONS = ("grpo_verifiers", "grpo_plugins", "grpo_tasks")


def modules_after(code: str) -> set[str]:
    """Top-level names in sys.modules after running `code`."""
    show = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "vllm", "datasets", "numpy", "pydantic", "sympy"}
    loaded = modules_after("import grpo_core")
    assert loaded.isdisjoint(heavy | set(EXTENSIONS))


def test_finding_plugins_loads_nothing_heavy() -> None:
    """`grpo --help` has to answer at once."""
    loaded = modules_after(
        "from grpo_core.plugin_manager import load_plugins\n"
        "import grpo_verifiers.hooks, grpo_plugins.hooks, grpo_tasks.hooks\n"
        "load_plugins(extra=[])"
    )
    assert loaded.isdisjoint({"torch", "transformers", "vllm", "datasets", "numpy", "sympy"})


@pytest.mark.parametrize("module", ["arithmetic", "gsm8k", "dataset"])
def test_tasks_import_data_libraries_only_to_load_data(module: str) -> None:
    loaded = modules_after(f"import grpo_tasks.{module}")
    assert loaded.isdisjoint({"torch", "transformers", "datasets", "numpy", "pyarrow"})


def test_the_whole_core_knows_no_extension() -> None:
    loaded = modules_after(
        "import importlib, pkgutil, grpo_core\n"
        "for module in pkgutil.walk_packages(grpo_core.__path__, 'grpo_core.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)"
    )
    assert "torch" in loaded  # really everything was imported
    assert loaded.isdisjoint(EXTENSIONS)
