"""The sides of the comparison, each a subprocess, so that memory and threads are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from step.probe import StepRecord
from step.workload import Workload

HERE = Path(__file__).resolve().parent
_TIMEOUT = 3600.0

# Both sides get the same variables. The second is libgomp's default, spelt out because `grpo` lets
# threads spin for a moment only, unless they are set.
THREADS = {
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spinning": {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "300000"},
}


class SideFailed(RuntimeError):
    """A subprocess ended with an error."""


@dataclass(frozen=True, slots=True)
class Side:
    """One way to take the step.

    Attributes:
        name: in tables and results. title: one line for people.
        trl: settings of `TrlSettings`, or None for ours.
        reward: of the workload; see `Workload`.
        plain: ours, without what makes it fast.
    """

    name: str
    title: str
    trl: Mapping[str, Any] | None = None
    reward: str | None = None
    plain: bool = False


def run_side(side: Side, workload: Workload, threads: str) -> list[StepRecord]:
    """The steps of one side in a process of its own; the first is the warm-up.

    Raises:
        SideFailed: with the end of what it printed.
    """
    workload = replace(workload, reward=side.reward or workload.reward)
    with tempfile.TemporaryDirectory(prefix="grpo-bench-") as folder:
        steps = Path(folder) / "steps.jsonl"
        if side.trl is None:
            command = _our_command(side, workload, Path(folder))
        else:
            command = _trl_command(side, workload, steps)
        run_python(command, threads, GRPO_BENCH_STEPS=str(steps))
        lines = steps.read_text(encoding="utf-8").splitlines()
    records = [StepRecord.read(line) for line in lines]
    if len(records) != workload.steps:
        raise SideFailed(f"{side.name}: {len(records)} steps of {workload.steps} were recorded.")
    return records


def run_python(arguments: Sequence[str], threads: str, **variables: str) -> str:
    """What a Python process prints, which sees this folder's package.

    Raises:
        SideFailed: as `run_side`.
    """
    paths = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, **THREADS[threads], **variables, "TOKENIZERS_PARALLELISM": "false"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if finished.returncode:
        said = (finished.stdout + finished.stderr)[-3000:]
        raise SideFailed(f"python {' '.join(arguments)} ended with an error:\n{said}")
    return finished.stdout


def last_json(text: str) -> dict[str, Any]:
    """The object on the last line."""
    found: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    return found


def _our_command(side: Side, workload: Workload, folder: Path) -> list[str]:
    config = folder / "config.json"
    config.write_text(workload.config().model_dump_json(), encoding="utf-8")
    module = "step.plain_run" if side.plain else "grpo_core"
    plugins = [HERE / "rewards.py", HERE / "observer.py"]
    command = ["-m", module, "train", str(config), "--output", str(folder / "run")]
    for plugin in plugins:
        command += ["--plugin", str(plugin)]
    return command


def _trl_command(side: Side, workload: Workload, steps: Path) -> list[str]:
    assert side.trl is not None
    settings = {
        "steps": workload.steps,
        "group_size": workload.group_size,
        "prompts_per_step": workload.prompts,
        "max_new_tokens": workload.max_new_tokens,
        "seed": workload.seed,
        **side.trl,
    }
    return ["-m", "step.trl_run", json.dumps(asdict(workload)), json.dumps(settings), str(steps)]
