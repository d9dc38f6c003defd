"""The same question gets the same answer: again, in a batch, and in another order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from grpo_core.testing.answers import Answer, ask, is_failure, same, show_sample
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped
from grpo_core.types import Json, Sample

_ROUNDS = 4
_MAX_BATCH = 64


def check_determinism(bench: Bench) -> Mapping[str, Json]:
    """The same calls in the same order, each time by a new instance."""
    samples = _some(bench)
    first = _fresh(bench, samples)
    for number in range(2, _ROUNDS + 1):
        compare(samples, first, _fresh(bench, samples), "at first", f"in round {number}")
    return {"samples": len(samples), "rounds": _ROUNDS}


def check_batch(bench: Bench) -> Mapping[str, Json]:
    """One call with all samples, with pairs, and with a sample twice."""
    asked = _some(bench)
    answers = _fresh(bench, asked)
    _check_counts(answers, "a single call")
    # What raises may raise for the whole batch: the pool asks again one by one.
    pairs = [
        (sample, answer)
        for sample, answer in zip(asked, answers, strict=True)
        if answer.verdict is not None and not is_failure(answer.verdict)
    ]
    if not pairs:
        raise CheckSkipped("no example can be judged")
    samples, single = [s for s, _ in pairs], [a for _, a in pairs]
    order = [*range(len(samples)), *range(len(samples) - 1, -1, -1)][:_MAX_BATCH]
    sizes = {1, 2, 3, len(order)}
    for size in sorted(sizes):
        for start in range(0, len(order), size):
            part = order[start : start + size]
            asked = [samples[at] for at in part]
            bench.say(asked[0].completion)
            answers = ask(bench.instance, asked)
            _check_counts(answers, f"a batch of {len(part)}")
            wanted = [single[at] for at in part]
            compare(asked, wanted, answers, "alone", f"in a batch of {len(part)}")
    return {"largest_batch": len(order)}


def _check_counts(answers: Sequence[Answer], what: str) -> None:
    """Fail for anything but one Verdict a sample."""
    for answer in answers:
        if answer.problem in ("count", "type"):
            raise CheckFailed(f"{what} gave {answer.message}")


def check_order(bench: Bench) -> Mapping[str, Json]:
    """Backwards, shuffled, and each twice in a row."""
    samples = _some(bench)
    first = _fresh(bench, samples)
    positions = list(range(len(samples)))
    shuffled = positions.copy()
    random.Random(0).shuffle(shuffled)
    orders = {
        "backwards": positions[::-1],
        "shuffled": shuffled,
        "twice in a row": [at for at in positions for _ in range(2)],
    }
    for name, order in orders.items():
        asked = [samples[at] for at in order]
        compare(asked, [first[at] for at in order], _fresh(bench, asked), "in order", name)
    return {"orders": list(orders)}


def compare(
    samples: Sequence[Sample],
    wanted: Iterable[Answer],
    found: Iterable[Answer],
    one: str,
    other: str,
) -> None:
    """Fail at the first sample whose two answers differ."""
    for sample, first, second in zip(samples, wanted, found, strict=True):
        if not same(first, second):
            raise CheckFailed(f"{show_sample(sample)} is {first} {one}, and {second} {other}")


def _fresh(bench: Bench, samples: Sequence[Sample]) -> list[Answer]:
    """Single calls to an instance made for them, where more than one can be made."""
    with bench.fresh() as instance:
        return list(bench.ask_each(samples, instance))


def _some(bench: Bench) -> list[Sample]:
    samples = bench.safe_samples
    if not samples:
        raise CheckSkipped("no example gets an answer")
    return samples
