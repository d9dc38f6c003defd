"""A verifier leaves what it is given as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from grpo_core.testing.answers import ask, show_sample
from grpo_core.testing.bench import Bench, CheckFailed
from grpo_core.types import Json

_META = {"kit": {"list": [3, 1, 2], "text": "as it was"}}


def check_inputs(bench: Bench) -> Mapping[str, Json]:
    """Samples may be shared by several verifiers, and are recorded afterwards."""
    plain = bench.safe_samples
    samples = [replace(s, meta={**s.meta, **copy.deepcopy(_META)}) for s in plain]
    given, before = list(samples), copy.deepcopy(samples)
    for sample, was in zip(samples, before, strict=True):
        bench.say(sample.completion)
        ask(bench.instance, [sample])
        if sample != was:
            raise CheckFailed(f"{show_sample(was)} was changed to {sample!r:.300}")
    ask(bench.instance, given)
    same_ones = len(given) == len(samples) and all(
        a is b for a, b in zip(given, samples, strict=True)
    )
    if not same_ones or samples != before:
        raise CheckFailed("the list of samples was changed by the call")
    return {"samples": len(samples)}
