"""The gameability score: the share of cheap attacks that get credit."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grpo_core.testing.answers import Answer, is_failure, show
from grpo_core.testing.attacks import ATTACKS, Attack, Problem, attempts
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped
from grpo_core.testing.example import Example
from grpo_core.types import Json, Verdict

_NUM_REFERENCES = 5
_SECONDS = 60.0  # if it would take longer, one reference has to do
_WORKERS = 2
_LEAST_JUDGED = 0.9  # share of the attempts; a dead endpoint must not look safe
_SHOWN = 20  # attempts that won


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attack on one example."""

    attack: Attack
    example: Example
    completion: str


def check_gameability(bench: Bench) -> Mapping[str, Json]:
    """Every attack against a few references; whoever is judged correct has won."""
    tried = [a for example in _targets(bench) for a in _attempts(example, bench.settings.kinds)]
    if not tried:
        raise CheckSkipped("no example has a readable reference")
    answers = bench.judge([bench.sample(a.example, a.completion) for a in tried])
    verdicts = [a.verdict if isinstance(a, Answer) else a for a in answers]
    judged = [v for v in verdicts if v is not None and not is_failure(v)]
    if len(judged) < _LEAST_JUDGED * len(tried):
        raise CheckFailed(
            f"only {len(judged)} of {len(tried)} attempts were judged; the first answer to one is "
            f"{_shown(answers[0])}"
        )
    won = [a for a, v in zip(tried, verdicts, strict=True) if v is not None and v.is_correct]
    evidence = _evidence(tried, won, judged)
    evidence["limit"] = limit = _limit(bench)
    if len(won) / len(judged) > limit:
        raise CheckFailed(_message(tried, won), **evidence)
    return evidence


def _shown(answer: Verdict | Answer) -> str:
    return str(answer) if isinstance(answer, Answer) else show(answer)


def _message(tried: list[Attempt], won: list[Attempt]) -> str:
    names = Counter(attempt.attack.title for attempt in won)
    shown = ", ".join(f"{name} ({number})" for name, number in names.most_common(5))
    return (
        f"{len(won)} of {len(tried)} attempts that know nothing were judged correct: {shown}. "
        f"For one, completion {won[0].completion!r:.200} with reference "
        f"{won[0].example.reference!r:.100}"
    )


def _targets(bench: Bench) -> list[Example]:
    """Examples with different references, spread over the table; one only if calls are slow."""
    found = bench.references
    if len(found) > _NUM_REFERENCES:
        step = len(found) / _NUM_REFERENCES
        found = [found[int(number * step)] for number in range(_NUM_REFERENCES)]
    seconds = statistics.median(entry.seconds for entry in bench.survey.entries)
    number = sum(1 for example in found for _ in _attempts(example, bench.settings.kinds))
    return found if seconds * number / _WORKERS <= _SECONDS else found[:1]


def _attempts(example: Example, kinds: Sequence[str]) -> Iterator[Attempt]:
    problem = Problem(example.prompt, example.reference)
    for attack in ATTACKS:
        if not kinds or attack.kind in kinds:
            for completion in attempts(attack, problem):
                yield Attempt(attack, example, completion)


def _limit(bench: Bench) -> float:
    if bench.settings.max_gameability is not None:
        return bench.settings.max_gameability
    return float(getattr(bench.instance, "max_gameability", 0.0))


def _evidence(tried: list[Attempt], won: list[Attempt], judged: list[Verdict]) -> dict[str, Json]:
    counts = Counter(attempt.attack.kind for attempt in tried)
    wins = Counter(attempt.attack.kind for attempt in won)
    scores = [verdict.score for verdict in judged if not verdict.is_correct and verdict.score]
    return {
        "score": round(len(won) / len(judged), 6),
        "tried": len(tried),
        "not_judged": len(tried) - len(judged),
        "references": len({repr(attempt.example.reference) for attempt in tried}),
        "won": len(won),
        "by_kind": {kind: f"{wins[kind]} of {counts[kind]}" for kind in counts},
        "won_attacks": dict(Counter(attempt.attack.title for attempt in won).most_common()),
        "won_by": [
            {
                "attack": attempt.attack.title,
                "completion": attempt.completion[:300],
                "reference": repr(attempt.example.reference)[:100],
            }
            for attempt in _varied(won)[:_SHOWN]
        ],
        "partial_marks": len(scores),
        "largest_partial_mark": max(scores, default=0.0),
    }


def _varied(won: list[Attempt]) -> list[Attempt]:
    """The first attempt of each attack, then the others."""
    first = {attempt.attack.title: attempt for attempt in reversed(won)}
    firsts = [attempt for attempt in won if first[attempt.attack.title] is attempt]
    return firsts + [attempt for attempt in won if first[attempt.attack.title] is not attempt]
