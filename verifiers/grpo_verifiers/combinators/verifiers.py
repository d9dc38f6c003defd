"""`all_of`, `any_of` and `first_of`: one verdict out of several verifiers'.

A deadline, a crash or the memory limit ends the call of all members together; what they declare
for it is in `joint_attributes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.combinators.logic import (
    ScoreRule,
    conjunction,
    disjunction,
    is_settled,
    undecided,
)
from grpo_verifiers.combinators.members import (
    Answer,
    Create,
    Member,
    Members,
    ask_in_turn,
    joint_attributes,
    make_members,
    unreadable_by,
)
from grpo_verifiers.combinators.verdicts import join_answers, no_reader, records

if TYPE_CHECKING:
    from grpo_core.testing import Example

PassedOn = Literal["abstain", "unparseable", "timeout", "error"]

_MEMBERS = "the verifiers, in the order in which they are asked"
_SCORE = "how the members' scores are joined; mean is weighted, and asks all members"


class Combinator:
    """What the three have in common: members, and what these need."""

    version = "1.0"

    def __init__(self, config: Any) -> None:
        self.config = config
        self._members: tuple[Member, ...] = ()

    def compose(self, create: Create) -> None:
        """Make the members, and declare what they need together."""
        self._members = make_members(self.config.members, create)
        for name, value in joint_attributes(self._members, type(self).version).items():
            setattr(self, name, value)

    def preload(self) -> None:
        """Let every member import what it needs, once, before workers are forked."""
        for member in self.members:
            if callable(getattr(member.verifier, "preload", None)):
                member.verifier.preload()

    @property
    def members(self) -> tuple[Member, ...]:
        """The members.

        Raises:
            VerifierError: if they were never made.
        """
        if not self._members:
            raise VerifierError(
                f"{type(self).__name__} has no members yet. Make it with the verifiers' registry, "
                "load_plugins().verifiers.create(name, options), or call compose(create)."
            )
        return self._members


class AllOf(Combinator):
    """Correct if all members say so; wrong or unparseable as soon as one says that.

    Where no member says wrong and one abstains or fails, so does this. Every member must be able
    to read the reference.
    """

    class Config(BaseModel):
        """Options of the all_of verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        members: Members = Field(description=_MEMBERS)
        score: ScoreRule = Field(default="min", description=_SCORE)

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; members see those that none has found wrong."""
        rule: ScoreRule = self.config.score
        unreadable = [unreadable_by(self.members, sample.reference) for sample in samples]
        open_samples = [i for i, why in enumerate(unreadable) if not why]
        given = ask_in_turn(
            self.members,
            [samples[i] for i in open_samples],
            lambda answers: is_settled([a.verdict for a in answers], conjunction, rule),
        )
        verdicts = [Verdict.error("; ".join(why)) for why in unreadable]
        for i, answers in zip(open_samples, given, strict=True):
            verdicts[i] = join_answers(answers, conjunction, rule)
        return verdicts

    def check_reference(self, reference: Json) -> None:
        """Let every member read a reference.

        Raises:
            VerifierError: if one cannot.
        """
        if unreadable := unreadable_by(self.members, reference):
            raise VerifierError("; ".join(unreadable))

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_verifiers.combinators.examples import ALL_OF

        return ALL_OF


class AnyOf(Combinator):
    """Correct if one member says so; wrong only if all do.

    Where none says correct and one abstains or fails, so does this. A member that cannot read the
    reference is left out.
    """

    class Config(BaseModel):
        """Options of the any_of verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        members: Members = Field(description=_MEMBERS)
        score: ScoreRule = Field(default="max", description=_SCORE)

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; members see those that none has found correct."""
        rule: ScoreRule = self.config.score

        def is_decided(answers: Sequence[Answer]) -> bool:
            counted = [answer.verdict for answer in answers if not answer.unreadable]
            return bool(counted) and is_settled(counted, disjunction, rule)

        given = ask_in_turn(self.members, samples, is_decided, leave_out=True)
        return [join_answers(answers, disjunction, rule) for answers in given]

    def check_reference(self, reference: Json) -> None:
        """Let the members read a reference.

        Raises:
            VerifierError: if none of them can.
        """
        _check_readable_by_one(self.members, reference)

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_verifiers.combinators.examples import ANY_OF

        return ANY_OF


class FirstOf(Combinator):
    """The verdict of the first member that does not abstain, whether it is correct or wrong.

    A member that abstains, or cannot read the reference, passes the completion on to the next. If
    all do, the gravest of their statuses is the verdict: error, timeout, unparseable, abstain. To
    ask a judge about what a cheap check has not found correct, take any_of.
    """

    class Config(BaseModel):
        """Options of the first_of verifier."""

        model_config = ConfigDict(frozen=True, extra="forbid")

        members: Members = Field(description=_MEMBERS)
        pass_on: tuple[PassedOn, ...] = Field(
            default=("abstain",), description="what a member may say to let the next one decide"
        )

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; members see those that none has decided."""
        given = ask_in_turn(self.members, samples, self._is_decided, leave_out=True)
        return [self._verdict(answers) for answers in given]

    def check_reference(self, reference: Json) -> None:
        """Let the members read a reference.

        Raises:
            VerifierError: if none of them can.
        """
        _check_readable_by_one(self.members, reference)

    def _is_decided(self, answers: Sequence[Answer]) -> bool:
        last = answers[-1] if answers else None
        if last is None or last.unreadable:
            return False
        return last.verdict.status not in self.config.pass_on

    def _verdict(self, answers: Sequence[Answer]) -> Verdict:
        counted = [answer for answer in answers if not answer.unreadable]
        if not counted:
            return no_reader(answers)
        last = counted[-1]
        if last.verdict.status in self.config.pass_on:
            worst = undecided([answer.verdict.status for answer in counted])
            last = next(answer for answer in counted if answer.verdict.status is worst)
        name, verdict = last.member.name, last.verdict
        details = {"decided_by": name, "members": records(answers)}
        return replace(verdict, reason=f"{name}: {verdict.reason}", details=details)

    @staticmethod
    def examples() -> list[Example]:
        """Completions whose verdict is known."""
        from grpo_verifiers.combinators.examples import FIRST_OF

        return FIRST_OF


def _check_readable_by_one(members: Sequence[Member], reference: Json) -> None:
    unreadable = unreadable_by(members, reference)
    if len(unreadable) == len(members):
        raise VerifierError(f"no member can read the reference. {'; '.join(unreadable)}")
