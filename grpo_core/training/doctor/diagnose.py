"""All checks in order, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from grpo_core.config import RunConfig
from grpo_core.plugin_manager import PluginSources
from grpo_core.training.doctor import installation
from grpo_core.training.doctor.finding import Bench, Finding, Grade, run_checks, skipped
from grpo_core.training.doctor.plugin_checks import plugin_checks


def diagnose(
    config: RunConfig, sources: PluginSources, *, quick: bool = False
) -> Iterator[Finding]:
    """Look at everything a run with this config rests on, and go on past problems.

    Args:
        config: of the run.
        sources: where plugins come from.
        quick: leave out what loads the model.
    """
    bench, broken = Bench(config, sources), set[str]()
    try:
        yield from run_checks((*installation.CHECKS, *plugin_checks(bench)), bench, broken)
        if "torch" in broken:
            yield skipped("everything else", "it rests on 'torch'")
            return
        # Imports torch and transformers, which are known to work only now.
        from grpo_core.training.doctor import (
            containment,
            invariance,
            model,
            sampler,
            text,
            verifiers,
            weights,
        )

        parts = (verifiers, containment, weights, text, model, sampler, invariance)
        checks = [check for part in parts for check in part.CHECKS]
        yield from run_checks(checks, bench, broken, quick=quick)
    finally:
        bench.close()


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The diagnosis as one JSON object; `ok` is false when there is a problem."""
    counts = Counter(finding.grade for finding in findings)
    return {
        "ok": not counts[Grade.PROBLEM],
        "counts": {str(grade): counts[grade] for grade in Grade},
        "checks": [
            {
                "name": finding.name,
                "status": str(finding.grade),
                "found": finding.found,
                "cure": finding.cure,
                "numbers": dict(finding.numbers),
            }
            for finding in findings
        ],
    }
