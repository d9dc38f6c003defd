"""The members of a combinator: how they are made, asked, and accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Status, Verdict

Create = Callable[[str, Mapping[str, Any]], Any]

DEFAULT_DEADLINE, DEFAULT_MEMORY_MB = (
    5.0,
    2048,
)  # of a member that asks for none beside one that does
_PLACEMENTS = ("workers", "process", "trainer")  # the strongest last
_READABLE = ("messages", "token_ids")


class MemberConfig(BaseModel):
    """One verifier of a combinator."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="a registered verifier, such as math")
    options: dict[str, Any] = Field(default={}, description="its options")
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="its weight where score is mean"
    )


def _no_plain_names(value: object) -> object:
    for member in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        if isinstance(member, str):
            raise ValueError(
                f'a member is a table such as {{name = "{member}"}}, got the plain name {member!r}.'
            )
    return value


def _not_empty(members: tuple[MemberConfig, ...]) -> tuple[MemberConfig, ...]:
    if not members:
        raise ValueError('must have a member such as {name = "math"}, got none.')
    return members


# Not min_length: where a member is faulty, pydantic counts the ones that are left.
Members = Annotated[
    tuple[MemberConfig, ...], BeforeValidator(_no_plain_names), AfterValidator(_not_empty)
]


@dataclass(frozen=True, slots=True)
class Member:
    """A verifier that has been made, by the name that users know it by."""

    name: str
    weight: float
    verifier: Any
    why_unreadable: Callable[[str], str]

    @property
    def version(self) -> str:
        """As its verdicts record it."""
        return str(getattr(self.verifier, "version", "") or "0")

    def cannot_read(self, reference: Json) -> str:
        """Why it cannot read a reference; "" if it can, or does not say."""
        return self.why_unreadable(json.dumps(reference))

    def ask(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample; where the member raises, an error that says what."""
        try:
            verdicts = list(self.verifier.verify(samples))
        except MemoryError:
            raise  # ends the worker process: nothing in it can be relied on
        except Exception as error:  # noqa: BLE001 - a member's failure is its own verdict
            if len(samples) > 1:
                return [verdict for sample in samples for verdict in self.ask([sample])]
            return [Verdict.error(f"raised {type(error).__name__}: {error}")]
        if len(verdicts) != len(samples) or not all(isinstance(v, Verdict) for v in verdicts):
            fault = Verdict.error(f"gave no {len(samples)} verdicts for {len(samples)} samples")
            return [fault] * len(samples)
        return verdicts


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said of one sample.

    Attributes:
        unreadable: why the member cannot read the reference, so that its verdict does not count.
    """

    member: Member
    verdict: Verdict
    unreadable: str = ""

    def record(self, max_details: int) -> dict[str, Json]:
        """For the details of the joint verdict."""
        name: dict[str, Json] = {"verifier": self.member.name, "version": self.member.version}
        if self.unreadable:
            return {**name, "status": "not applicable", "reason": self.unreadable[:500]}
        verdict = self.verdict
        said = {"status": str(verdict.status), "score": verdict.score}
        details: Json = dict(verdict.details)
        if (size := len(json.dumps(details))) > max_details:
            details = {"left_out": f"details of {size} bytes"}
        return {**name, **said, "reason": verdict.reason[:500], "details": details}


def make_members(configs: Iterable[MemberConfig], create: Create) -> tuple[Member, ...]:
    """The members themselves, their own members included.

    Raises:
        PluginError, ConfigError: as `create`, for an unknown name or a wrong option.
    """
    members = []
    for config in configs:
        verifier = create(config.name, config.options)
        reader = lru_cache(maxsize=1024)(_reader(verifier))
        members.append(Member(config.name, config.weight, verifier, reader))
    return tuple(members)


def joint_attributes(members: Sequence[Member], version: str) -> dict[str, Any]:
    """What a combinator declares, made of what its members declare.

    A call asks each member at most once, one after the other, in the process that all can live in.
    """
    verifiers = [member.verifier for member in members]

    def declared(name: str, default: Any) -> list[Any]:
        values = [getattr(verifier, name, None) for verifier in verifiers]
        return [default if value is None else value for value in values]

    def asks(name: str) -> bool:
        return any(getattr(verifier, name, None) is not None for verifier in verifiers)

    reads = {field for fields in declared("reads", ()) for field in fields}
    names = ", ".join(f"{member.name} {member.version}" for member in members)
    return {
        "version": f"{version}({names})",
        "placement": max(declared("placement", "workers"), key=_PLACEMENTS.index),
        # Where none asks for anything, the run's own settings hold for the whole call.
        "deadline": float(sum(declared("deadline", DEFAULT_DEADLINE)))
        if asks("deadline")
        else None,
        "memory_mb": max(declared("memory_mb", DEFAULT_MEMORY_MB)) if asks("memory_mb") else None,
        "batch_size": min(declared("batch_size", 1)),
        "reads": tuple(field for field in _READABLE if field in reads),
        "candidate_bears_limits": all(declared("candidate_bears_limits", False)),
    }


def unreadable_by(members: Sequence[Member], reference: Json) -> list[str]:
    """For each member that cannot read a reference its name, and why."""
    found = [(member.name, member.cannot_read(reference)) for member in members]
    return [f"{name}: {why}" for name, why in found if why]


def ask_in_turn(
    members: Sequence[Member],
    samples: Sequence[Sample],
    is_decided: Callable[[Sequence[Answer]], bool],
    *,
    leave_out: bool = False,
) -> list[list[Answer]]:
    """Ask one member after the other about the samples that are still open.

    Args:
        members: in the order in which they are asked.
        samples: what is judged.
        is_decided: whether no further answer is needed.
        leave_out: mark the answers of members that cannot read a sample's reference.

    Returns:
        for each sample the answers of the members that were asked.
    """
    given: list[list[Answer]] = [[] for _ in samples]
    for member in members:
        still_open = [i for i, answers in enumerate(given) if not is_decided(answers)]
        if not still_open:
            break
        verdicts = member.ask([samples[i] for i in still_open])
        for i, verdict in zip(still_open, verdicts, strict=True):
            may_be_unreadable = leave_out and verdict.status in (Status.ERROR, Status.ABSTAIN)
            why = member.cannot_read(samples[i].reference) if may_be_unreadable else ""
            given[i].append(Answer(member, verdict, why))
    return given


def _reader(verifier: Any) -> Callable[[str], str]:
    def why_unreadable(reference: str) -> str:
        if callable(getattr(verifier, "check_reference", None)):
            try:
                verifier.check_reference(json.loads(reference))
            except VerifierError as error:
                return str(error) or "the reference cannot be read"
        return ""

    return why_unreadable
