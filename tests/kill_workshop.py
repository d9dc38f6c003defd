"""Where runs are killed and resumed: see kill_trials.py, which draws up the list."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from run_outcome import compare, outcome
from tiny_model import save_tiny_model

ROOT = Path(__file__).parents[1]
ANY_TIME = "any time"
MAX_KILLS = 3


@dataclass(frozen=True, slots=True)
class Kill:
    """When a sitting ends: the `number`-th event of a kind in a step, or at a share of its time."""

    kind: str
    step: int
    number: int
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A variant, and where its sittings are killed, in order."""

    variant: str
    kills: tuple[Kill, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a plan.

    Attributes:
        killed: for each kill whether the run was still there to be killed.
        differences: from the undisturbed run; none when all is well.
    """

    plan: Plan
    killed: tuple[bool, ...]
    differences: tuple[str, ...]


@dataclass(slots=True)
class Reference:
    """An undisturbed run: how many events of each kind and step it had, and its result."""

    counts: dict[tuple[str, int], int]
    seconds: float
    outcome: dict[str, str]


@dataclass
class Workshop:
    """Where trials are made. A context: it holds the process that forks the runs.

    Attributes:
        folder: for runs and the model; empty.
        variants: configs by name, without a model.
        fault: what is broken on purpose in resumed runs; see kill_child.FAULTS.
    """

    folder: Path
    variants: Mapping[str, Mapping[str, Any]]
    fault: str | None = None
    _references: dict[str, Reference] = field(default_factory=dict)

    def __enter__(self) -> Workshop:
        ours = [ROOT, ROOT / "plugins", ROOT / "verifiers", ROOT / "tasks", ROOT / "tests"]
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, ours), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
        }
        self._server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "kill_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(10)
        self._server.stdout.close()

    @cached_property
    def model(self) -> Path:
        """A tiny random model."""
        return save_tiny_model(self.folder / "model")

    def plans(self, max_kills: int = MAX_KILLS) -> st.SearchStrategy[Plan]:
        """Plans for any variant; the undisturbed runs tell what there is to be drawn."""
        # Numbers of hypothesis's own keep to the edges; kills shall come anywhere.
        chances = st.randoms(use_true_random=True)
        return chances.map(lambda chance: self._draw(chance, max_kills))

    def _draw(self, chance: Random, max_kills: int) -> Plan:
        variant = chance.choice(sorted(self.variants))
        counts = self.reference(variant).counts
        kinds = sorted({kind for kind, _ in counts})
        kills = []
        for _ in range(chance.randint(1, max_kills)):
            kind = chance.choice([*kinds, ANY_TIME])
            if kind == ANY_TIME:
                kills.append(Kill(kind, 0, 0, round(chance.uniform(0.05, 0.95), 3)))
            else:
                step = chance.choice(sorted(step for known, step in counts if known == kind))
                kills.append(Kill(kind, step, chance.randrange(counts[kind, step])))
        return Plan(variant, tuple(sorted(kills, key=lambda kill: kill.step)))

    def reference(self, variant: str) -> Reference:
        """The undisturbed run of a variant, made once."""
        if variant not in self._references:
            path = self.folder / f"whole {variant}"
            answer = self._sit(path, variant, None, fault=None, is_last=True)
            log = path.with_suffix(".log").read_text()
            assert answer["returncode"] == 0 and not answer["orphans"], log
            triples = json.loads(path.with_suffix(".counts").read_text())
            counts = {(kind, step): number for kind, step, number in triples}
            self._references[variant] = Reference(
                counts | _bytes(path), answer["seconds"], outcome(path)
            )
        return self._references[variant]

    def run(self, plan: Plan) -> Trial:
        """Carry out a plan: sittings that are killed, then one that is left alone."""
        reference = self.reference(plan.variant)
        path = self.folder / "run"
        killed, answer = [], {}
        for number, kill in enumerate([*plan.kills, None]):
            fault = self.fault if number else None
            answer = self._sit(path, plan.variant, kill, fault=fault, is_last=kill is None)
            killed.append(answer["returncode"] < 0)
            if not killed[-1] and answer["returncode"]:
                break
        if answer["returncode"] != 0:
            differences = [f"ended with {answer['returncode']}: {_end_of(path)}"]
        else:
            differences = compare(reference.outcome, outcome(path))
        if answer["orphans"]:
            differences.append(f"{answer['orphans']} processes are left")
        shutil.rmtree(path, ignore_errors=True)
        path.with_suffix(".log").unlink()
        return Trial(plan, tuple(killed[: len(plan.kills)]), tuple(differences))

    def _sit(
        self, path: Path, variant: str, kill: Kill | None, *, fault: str | None, is_last: bool
    ) -> dict[str, Any]:
        """Have the server start a run, or go on with it."""
        moment = delay = None
        if kill is not None and kill.kind == ANY_TIME:
            delay = kill.share * self.reference(variant).seconds
        elif kill is not None:
            moment = (kill.kind, kill.step, kill.number)
        order = {
            "run": str(path),
            "config": {**self.variants[variant], "model": {"path": str(self.model)}},
            "moment": moment,
            "delay": delay,
            "fault": fault,
            "is_last": is_last,
            "log": str(path.with_suffix(".log")),
            "counts": str(path.with_suffix(".counts")),
        }
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


def _bytes(path: Path) -> dict[tuple[str, int], int]:
    """Sizes of what a run has written: a kill at k bytes needs a file larger than that."""
    sizes: dict[tuple[str, int], int] = {}
    lines = (path / "metrics.jsonl").read_bytes().splitlines()
    for step, line in enumerate(lines, 1):
        rollouts = path / "rollouts" / f"step-{step:06d}.parquet"
        weights = path.glob("checkpoints/*/*.safetensors")
        # Wall times have more digits in one run than in another.
        sizes["metrics bytes", step] = len(line) - 50
        sizes["rollouts bytes", step] = rollouts.stat().st_size - 500
        sizes["checkpoint bytes", step] = max(file.stat().st_size for file in weights)
    return sizes


def _end_of(path: Path) -> str:
    return path.with_suffix(".log").read_text()[-1500:]
