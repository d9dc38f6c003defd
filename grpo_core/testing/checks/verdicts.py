"""What a verdict may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from grpo_core.testing.answers import Answer, ask, show_sample
from grpo_core.testing.bench import Bench, CheckFailed
from grpo_core.types import Json, Sample

_NOT_PLAIN = (TypeError, ValueError, RecursionError)


def check_bounds(bench: Bench) -> Mapping[str, Json]:
    """Scores are finite and in [0, 1], and steps end within the completion."""
    scores = []
    for sample, answer in _answers(bench):
        if answer.problem == "score":
            raise CheckFailed(f"{show_sample(sample)} {answer.message}")
        if answer.verdict is None or answer.verdict.score is None:
            continue
        scores.append(answer.verdict.score)
        ends, length = [step.end for step in answer.verdict.steps], len(sample.completion)
        if ends and max(ends) > length:
            raise CheckFailed(
                f"{show_sample(sample)} has a step that ends at {max(ends)}, after its {length} "
                "characters"
            )
    return {"lowest": min(scores, default=None), "highest": max(scores, default=None)}


def check_details(bench: Bench) -> Mapping[str, Json]:
    """A verdict crosses from the worker as JSON of bounded size."""
    from grpo_core.verification.protocol import MAX_DETAILS, MAX_REASON, MAX_STEPS

    largest = 0
    for sample, answer in _answers(bench):
        verdict = answer.verdict
        if verdict is None:
            continue
        try:
            text = json.dumps(dict(verdict.details), allow_nan=False)
        except _NOT_PLAIN as error:
            raise CheckFailed(
                f"{show_sample(sample)} has details that are not plain JSON: {error}"
            ) from error
        largest = max(largest, len(text))
        if json.loads(text) != dict(verdict.details):
            raise CheckFailed(
                f"{show_sample(sample)} has details that change when they are written as JSON "
                f"(tuples, keys that are no text): {dict(verdict.details)!r:.200}"
            )
        for what, size, limit in (
            ("details of bytes", len(text), MAX_DETAILS),
            ("a reason of characters", len(verdict.reason), MAX_REASON),
            ("a number of steps", len(verdict.steps), MAX_STEPS),
        ):
            if size > limit:
                raise CheckFailed(f"{show_sample(sample)} has {what}: {size}, more than {limit}")
    return {"largest_bytes": largest}


def is_plain(details: Mapping[str, Json]) -> bool:
    """Whether details can be written as JSON."""
    try:
        json.dumps(dict(details), allow_nan=False)
    except _NOT_PLAIN:
        return False
    return True


def _answers(bench: Bench) -> Iterator[tuple[Sample, Answer]]:
    """Answers of this process to everything that the survey found harmless."""
    unsafe = bench.survey.unsafe
    for entry in bench.survey.entries:
        if entry.sample not in unsafe:
            bench.say(entry.sample.completion)
            yield entry.sample, ask(bench.instance, [entry.sample])[0]
