"""The verdicts are the same in other processes: workers of a pool, and other hash orders."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.testing.answers import Answer
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped
from grpo_core.testing.checks.repeats import compare
from grpo_core.testing.checks.verdicts import is_plain
from grpo_core.types import Json

_NOT_FOUND = "another process cannot find it: it is an instance, or a class inside a function"
_SEEDS = (1, 2, 3)  # values of PYTHONHASHSEED


def check_process(bench: Bench) -> Mapping[str, Json]:
    """In a real pool: forked from a fresh process, samples and verdicts crossing as JSON."""
    if bench.pool is None:
        raise CheckSkipped(_NOT_FOUND)
    pairs = [
        (sample, answer)
        for sample, answer in zip(
            bench.safe_samples, bench.ask_each(bench.safe_samples), strict=True
        )
        if answer.verdict is not None and is_plain(answer.verdict.details)
    ]
    samples = [sample for sample, _ in pairs]
    wanted = [answer for _, answer in pairs]
    found = [Answer(verdict) for verdict in bench.pool.verify(bench.subject.name, samples)]
    compare(samples, wanted, found, "here", "in a worker")
    for example in bench.references:
        [refusal] = bench.pool.check_references(bench.subject.name, [example.reference])
        if refusal is not None and bench.is_safe(example):
            raise CheckFailed(f"reference {example.reference!r:.200} in a worker: {refusal}")
    return {"samples": len(samples)}


def check_hash_seed(bench: Bench) -> Mapping[str, Json]:
    """Sets and dictionaries of text iterate differently in every Python process."""
    if not bench.subject.is_everywhere:
        raise CheckSkipped(_NOT_FOUND)
    if bench.placement != "workers":
        raise CheckSkipped(f"it runs in one process only (placement '{bench.placement}')")
    samples = bench.safe_samples
    if not samples:
        raise CheckSkipped("no example gets an answer")
    from grpo_core.testing.child import ask_with_hash_seed

    bench.say("processes with other hash seeds")
    answers = {seed: ask_with_hash_seed(bench.subject, samples, seed) for seed in _SEEDS}
    first = answers[_SEEDS[0]]
    for seed in _SEEDS[1:]:
        compare(samples, first, answers[seed], f"with PYTHONHASHSEED={_SEEDS[0]}", f"with {seed}")
    return {"samples": len(samples), "seeds": list(_SEEDS)}
