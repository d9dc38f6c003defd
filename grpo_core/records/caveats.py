"""What a reader of the report should know before believing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from grpo_core.records.formats import mean, number, percent
from grpo_core.records.text import printable
from grpo_core.types import Json, Status

Line = Mapping[str, Json]
_RECENT = 10


def find_caveats(
    metrics: Sequence[Line],
    summary: Line,
    manifest: Line,
    before: Line | None,
    after: Line | None,
    alarms: Sequence[Line] = (),
) -> list[str]:
    """Plain sentences, the gravest first."""
    return [
        *_outcome(summary, before, after),
        *_alarms(alarms),
        *_verdicts(metrics, before, after),
        *_training(metrics),
        *_code(manifest),
    ]


def _outcome(summary: Line, before: Line | None, after: Line | None) -> list[str]:
    found = []
    if not summary:
        found.append("The run has no summary: it is still going on, or it was killed.")
    elif summary.get("status") != "finished":
        found.append(f"The run was {summary.get('status')}; its numbers are those up to then.")
    if before is None or after is None:
        found.append("There is no pair of evaluations before and after training to compare.")
        return found
    high = _end(before, "high")
    low = _end(after, "low")
    if high is not None and low is not None and low <= high:
        found.append(
            "The 95% intervals before and after overlap: this run alone does not show that the "
            "model got better. Evaluate on more prompts."
        )
    return found


def _alarms(alarms: Sequence[Line]) -> list[str]:
    if not alarms:
        return []
    names = ", ".join(
        f"{printable(str(name), 80)} ({times}x)" if times > 1 else printable(str(name), 80)
        for name, times in Counter(line.get("name") for line in alarms).items()
    )
    many = f"{len(alarms)} alarms were" if len(alarms) > 1 else "1 alarm was"
    return [f"{many} raised about the training numbers: {names}. See below."]


def _verdicts(metrics: Sequence[Line], before: Line | None, after: Line | None) -> list[str]:
    found = []
    for status in (Status.ERROR, Status.TIMEOUT, Status.ABSTAIN):
        total = sum(number(line.get(f"status_{status}")) or 0 for line in metrics)
        for evaluation in (before, after):
            counts = (evaluation or {}).get("statuses")
            if isinstance(counts, Mapping):
                total += number(counts.get(str(status))) or 0
        if total:
            found.append(
                f"{total:.0f} {'verdict is' if total == 1 else 'verdicts are'} '{status}': not "
                "the completions' doing, and left out of every mean."
            )
    return found


def _training(metrics: Sequence[Line]) -> list[str]:
    found = []
    truncated = _recent(metrics, "truncated_share")
    if truncated is not None and truncated > 0.25:
        found.append(
            f"{percent(truncated)} of the last completions were cut off at the token limit; "
            "raise sampling.max_new_tokens if answers come late."
        )
    silent = _recent(metrics, "zero_signal_share")
    if silent is not None and silent > 0.75:
        found.append(
            f"{percent(silent)} of the last groups had equal rewards and taught nothing: the "
            "problems are now too easy, or still too hard."
        )
    gap = _recent(metrics, "sampler_logprob_gap")
    if gap is not None and gap > 0.05:
        found.append(
            f"Sampler and trainer disagree by {gap:.3f} nats a token on average; the update is "
            "less on-policy than it looks."
        )
    broken = [key for key in ("loss", "grad_norm") if any(_lost(line, key) for line in metrics)]
    if broken:
        found.append(f"Some steps have no finite {' and '.join(broken)}.")
    return found


def _code(manifest: Line) -> list[str]:
    git = manifest.get("git")
    if isinstance(git, Mapping) and git.get("dirty"):
        return ["The folder it was started in had uncommitted changes."]
    return []


def _end(evaluation: Line, key: str) -> float | None:
    estimate = evaluation.get("pass_at_1")
    return number(estimate.get(key)) if isinstance(estimate, Mapping) else mean(estimate)


def _recent(metrics: Sequence[Line], key: str) -> float | None:
    values = [value for line in metrics[-_RECENT:] if (value := number(line.get(key))) is not None]
    return sum(values) / len(values) if values else None


def _lost(line: Line, key: str) -> bool:
    return key in line and number(line[key]) is None
