"""The same prompts before and after training, for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_core.records.text import printable
from grpo_core.types import Json, Rollout, RolloutGroup, Verdict

COMPLETION_LIMIT = 1500
_ANSWER_KEYS = ("extracted", "parsed", "answer")
_LABELS = {
    (False, True): "learned",
    (True, False): "lost",
    (True, True): "right both times",
    (False, False): "wrong both times",
}
# How many of each kind are shown: mostly what changed, and what is still wrong.
_SHARES = {"learned": 4, "lost": 2, "wrong both times": 2, "right both times": 1}


@dataclass(frozen=True, slots=True)
class Side:
    """One completion, fit for showing."""

    completion: str
    status: str
    reason: str
    score: float | None
    parsed: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with its first completion before and after training."""

    label: str
    prompt: str
    reference: str
    before: Side
    after: Side


@dataclass(frozen=True, slots=True)
class Examples:
    """What is shown, and how many prompts of each label there are in all."""

    shown: Sequence[Example]
    counts: Mapping[str, int]


def pick_examples(before: Sequence[RolloutGroup], after: Sequence[RolloutGroup]) -> Examples:
    """Pair the groups by prompt; labels compare the first completion of each prompt.

    Which prompts are shown depends on nothing but their order in the evaluation.
    """
    earlier = {group.prompt.id: group for group in before if group.rollouts}
    pairs = [
        _example(earlier[group.prompt.id], group)
        for group in after
        if group.rollouts and group.prompt.id in earlier
    ]
    shown = [
        example
        for label, limit in _SHARES.items()
        for example in [pair for pair in pairs if pair.label == label][:limit]
    ]
    return Examples(shown, Counter(pair.label for pair in pairs))


def _example(before: RolloutGroup, after: RolloutGroup) -> Example:
    first, last = before.rollouts[0], after.rollouts[0]
    return Example(
        _LABELS[_is_correct(first), _is_correct(last)],
        printable(after.prompt.text, COMPLETION_LIMIT),
        _short(after.prompt.reference),
        _side(first),
        _side(last),
    )


def _is_correct(rollout: Rollout) -> bool:
    return bool(rollout.verdicts) and rollout.judgement.is_correct


def _side(rollout: Rollout) -> Side:
    verdict = rollout.judgement if rollout.verdicts else None
    return Side(
        printable(rollout.completion.text, COMPLETION_LIMIT),
        str(verdict.status) if verdict else "not judged",
        printable(verdict.reason, 300) if verdict else "",
        verdict.score if verdict else None,
        _answer(verdict) if verdict else "",
        rollout.completion.is_truncated,
    )


def _answer(verdict: Verdict) -> str:
    """What the verifier says it read; verifiers name it differently."""
    found = [verdict.details[key] for key in _ANSWER_KEYS if verdict.details.get(key) is not None]
    return _short(found[0]) if found else ""


def _short(value: Json) -> str:
    return printable(value if isinstance(value, str) else repr(value), 300)
