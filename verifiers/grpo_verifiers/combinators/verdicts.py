"""One verdict out of the members' answers, with all of these in its details."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_core.types import Json, Status, StepScore, Verdict
from grpo_verifiers.combinators.logic import Join, ScoreRule, joint_score
from grpo_verifiers.combinators.members import Answer

_MAX_DETAILS = 48_000  # characters of all members' details together; a verdict may have 64 KiB


def join_answers(answers: Sequence[Answer], join: Join, rule: ScoreRule) -> Verdict:
    """The joint verdict.

    Steps are passed on where one member alone has scored them.
    """
    counted = [answer for answer in answers if not answer.unreadable]
    if not counted:
        return no_reader(answers)
    verdicts = [answer.verdict for answer in counted]
    status = join([verdict.status for verdict in verdicts])
    score = None
    if status.is_candidates:
        score = joint_score(verdicts, [answer.member.weight for answer in counted], rule)
    decisive = next(answer for answer in counted if answer.verdict.status is status)
    reason = f"{decisive.member.name}: {decisive.verdict.reason}"
    stepped = [verdict.steps for verdict in verdicts if verdict.steps]
    steps: Sequence[StepScore] = stepped[0] if len(stepped) == 1 else ()
    return Verdict(status, score, reason, {"members": records(answers)}, steps=steps)


def no_reader(answers: Sequence[Answer]) -> Verdict:
    """The verdict where no member can read the reference."""
    faults = "; ".join(f"{answer.member.name}: {answer.unreadable}" for answer in answers)
    return Verdict(Status.ERROR, None, f"no member can read the reference. {faults}")


def records(answers: Sequence[Answer]) -> list[Json]:
    """Every member's verdict, as plain values; those not listed were not asked."""
    return [answer.record(_MAX_DETAILS // len(answers)) for answer in answers]
