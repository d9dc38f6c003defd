"""What `grpo sandbox doctor` reports: every layer, who proved it, and which levels hold."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.errors import GrpoError
from grpo_verifiers.sandbox.api import Layer, Level, SandboxUnavailable, ScriptJob
from grpo_verifiers.sandbox.opening import open_sandbox
from grpo_verifiers.sandbox.selftest import LAYERS, STOPPED_BY, check, demanded
from grpo_verifiers.sandbox.zygote_sandbox import ZygoteSandbox

_JOBS = 20


@dataclass(frozen=True, slots=True)
class Examination:
    """A sandbox as found.

    Attributes:
        layers: each as used and proved; empty where the sandbox does not even start.
        attempts: what was tried -> whether it was stopped, and what was seen.
        refusals: level -> why it is not reached; "" where it is.
        start_seconds: from nothing to the first job, self-test included.
        job_ms: median and smallest time of an empty job.
    """

    backend: str
    layers: tuple[Layer, ...]
    attempts: Mapping[str, tuple[bool, str]]
    refusals: Mapping[Level, str]
    start_seconds: float = 0.0
    job_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def machine(self) -> str:
        """What all this was found on."""
        return f"{platform.system()} {platform.release()} on {platform.machine()}"

    def reaches(self, level: Level) -> bool:
        """Whether a level holds."""
        return not self.refusals[level]

    def is_demanded(self, layer: str, level: Level) -> bool:
        """Whether a level rests on a layer."""
        return layer in demanded(level, ())

    def as_json(self, level: Level) -> dict[str, Any]:
        """As one JSON object; `ok` says whether a level holds."""
        return {
            "ok": self.reaches(level),
            "level": str(level),
            "levels": {str(one): not why for one, why in self.refusals.items()},
            "missing": self.refusals[level],
            "backend": self.backend,
            "machine": self.machine,
            "layers": [
                {
                    "name": layer.name,
                    "demanded": self.is_demanded(layer.name, level),
                    "used": layer.used,
                    "proved": layer.proved,
                    "found": layer.found,
                    "cure": layer.cure,
                    "attempts": tried_against(layer.name),
                }
                for layer in self.layers
            ],
            "attempts": [
                {"name": name, "stopped": held, "seen": seen, "layers": list(STOPPED_BY[name])}
                for name, (held, seen) in self.attempts.items()
            ],
            "start_seconds": self.start_seconds,
            "job_ms": {"median": self.job_ms[0], "min": self.job_ms[1]},
        }


def tried_against(layer: str) -> list[str]:
    """The attempts of the self-test that a layer stops."""
    return [name for name, layers in STOPPED_BY.items() if layer in layers]


def examine(backend: str = "zygote") -> Examination:
    """Start a sandbox, whatever it is worth, and look at it.

    Raises:
        ConfigError: if there is no such backend, or it is none of those that our zygote runs in.
    """
    try:
        sandbox = open_sandbox(Level.PROCESS, backend, allow_weaker=LAYERS)
    except SandboxUnavailable as error:
        return Examination(backend, (), {}, dict.fromkeys(Level, str(error)))
    if not isinstance(sandbox, ZygoteSandbox):
        raise GrpoError(f"the backend '{backend}' isolates elsewhere; there is nothing to measure.")
    try:
        started = time.perf_counter()
        layers = sandbox.layers
        seconds = time.perf_counter() - started
        attempts = dict(sandbox.attempts)
        times = [sandbox.run(ScriptJob(source="")).seconds * 1000 for _ in range(_JOBS)]
    except GrpoError as error:
        return Examination(backend, (), {}, dict.fromkeys(Level, str(error)))
    finally:
        sandbox.close()
    refusals = {}
    for level in Level:
        try:
            check(layers, level, ())
            refusals[level] = ""
        except SandboxUnavailable as error:
            refusals[level] = str(error)
    job_ms = (statistics.median(times), min(times))
    return Examination(backend, layers, attempts, refusals, seconds, job_ms)
