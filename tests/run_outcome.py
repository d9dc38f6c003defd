"""All that a run computed, file by file, so that two runs can be compared to the last bit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.records.rollouts import read_rollouts
from grpo_core.records.run_directory import RunDirectory


def outcome(path: Path) -> dict[str, str]:
    """All files of a run, each as text that is the same for runs that computed the same."""
    directory = RunDirectory.open(path)
    found = {"summary.json": repr(_timeless(_without_paths(directory.read_summary())))}
    for file in sorted(path.rglob("*")):
        name = str(file.relative_to(path))
        if file.is_dir() or name in found:
            continue
        if file.suffix == ".parquet":
            found[name] = re.sub(r"seconds=[-+.e\d]+", "", repr(read_rollouts(file)))
        elif file.suffix == ".jsonl":
            lines = file.read_text().splitlines()
            found[name] = repr([_timeless(json.loads(line)) for line in lines])
        elif file.suffix == ".safetensors":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name == "trainer_state.json" or file.parent.name == "evaluations":
            found[name] = repr(_timeless(json.loads(file.read_text())))
        else:
            found[name] = "is there"
    return found


def _timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without durations, and the sum over them."""
    return {k: v for k, v in values.items() if "second" not in k and k != "sha256"}


def _without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "checkpoint"}


def compare(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What is missing, too much, or different in the files of `other`."""
    found = [f"{name} is missing" for name in sorted(one.keys() - other.keys())]
    found += [f"{name} is too much" for name in sorted(other.keys() - one.keys())]
    found += [
        f"{name} differs" for name in sorted(one.keys() & other.keys()) if one[name] != other[name]
    ]
    return found
