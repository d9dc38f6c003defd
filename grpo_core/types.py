"""The records that travel through the framework.

Records are frozen, hold plain values only, and can be written as JSON, so that a stage may run in
another thread, process, or machine. Nothing here imports torch.

Shape letters: P prompts, G completions of one prompt (a group), T completion tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

Json = Any  # None | bool | int | float | str | list[Json] | dict[str, Json]
Message = Mapping[str, str]  # {"role": "user", "content": "..."}
FinishReason = Literal["eos", "stop", "length"]


class Status(StrEnum):
    """What a verdict says.

    The first three are the candidate's doing and count in its group. The last three are the
    verifier's or its surroundings' doing: the completion is left out of the group's statistics.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    ABSTAIN = "abstain"
    TIMEOUT = "timeout"
    ERROR = "error"

    @property
    def is_candidates(self) -> bool:
        """True when the completion, not the verifier, brought this status about."""
        return self in (Status.CORRECT, Status.WRONG, Status.UNPARSEABLE)


@dataclass(frozen=True, slots=True)
class StepScore:
    """The score, in [0, 1], of one step of a completion.

    Attributes:
        end: offset in the completion's text, in characters, at which the step ends.
    """

    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verifier's judgement of one completion.

    Attributes:
        status: see `Status`.
        score: in [0, 1], or None where the verifier could not judge.
        reason: one sentence for people.
        details: what was parsed, which test failed; plain JSON values.
        seconds: wall time of the judgement.
        verifier, version: who judged; filled in by the verification runner.
        steps: scores of the completion's steps in order, where the verifier judges steps.

    Raises:
        ValueError: if a score is not a finite number in [0, 1], is missing where the candidate
            was judged, or is given where it was not; or if steps are not in order.
    """

    status: Status
    score: float | None
    reason: str = ""
    details: Mapping[str, Json] = field(default_factory=dict)
    seconds: float = 0.0
    verifier: str = ""
    version: str = ""
    steps: Sequence[StepScore] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", Status(self.status))
        if self.steps:
            _check_steps(self.steps)
        if not self.status.is_candidates:
            if self.score is not None:
                raise ValueError(
                    f"a verdict of status {self.status} has no score, got {self.score}"
                )
            return
        if not _is_score(self.score):
            raise ValueError(
                f"score must be a finite number in [0, 1], got {self.score!r}. "
                "Return Verdict.abstain(...) when there is nothing to score."
            )

    @property
    def is_correct(self) -> bool:
        """The binary verdict, on which pass rates rest."""
        return self.status is Status.CORRECT

    @classmethod
    def correct(cls, reason: str = "", details: Mapping[str, Json] | None = None) -> Verdict:
        """Full marks."""
        return cls(Status.CORRECT, 1.0, reason, details or {})

    @classmethod
    def wrong(
        cls, reason: str = "", details: Mapping[str, Json] | None = None, score: float = 0.0
    ) -> Verdict:
        """An answer was found and it is not right; `score` may give partial marks."""
        return cls(Status.WRONG, score, reason, details or {})

    @classmethod
    def unparseable(cls, reason: str = "", details: Mapping[str, Json] | None = None) -> Verdict:
        """No answer can be read in the completion. Scores 0: finding an answer is its job."""
        return cls(Status.UNPARSEABLE, 0.0, reason, details or {})

    @classmethod
    def abstain(cls, reason: str = "", details: Mapping[str, Json] | None = None) -> Verdict:
        """The verifier has no opinion: not applicable, or not sure."""
        return cls(Status.ABSTAIN, None, reason, details or {})

    @classmethod
    def timeout(cls, reason: str = "", details: Mapping[str, Json] | None = None) -> Verdict:
        """The verifier did not answer in time."""
        return cls(Status.TIMEOUT, None, reason, details or {})

    @classmethod
    def error(cls, reason: str = "", details: Mapping[str, Json] | None = None) -> Verdict:
        """The verifier failed."""
        return cls(Status.ERROR, None, reason, details or {})


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0


def _check_steps(steps: Sequence[StepScore]) -> None:
    ends = [step.end for step in steps]
    if ends != sorted(set(ends)) or ends[0] < 0:
        raise ValueError(f"steps must end one after the other, got ends {ends[:20]}")
    for step in steps:
        if not _is_score(step.score):
            raise ValueError(f"a step's score must be in [0, 1], got {step.score!r}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem of a task.

    Attributes:
        id: unique within the task and split, and stable: seeds of completions derive from it.
        messages: the conversation so far; the sampler applies the model's chat template.
        reference: what the verifier compares with (an answer, tests, ...); plain JSON.
        meta: anything worth keeping, such as a difficulty level; plain JSON.
    """

    id: str
    messages: Sequence[Message]
    reference: Json
    meta: Mapping[str, Json] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last message, which people read and verifiers see."""
        return self.messages[-1]["content"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a verifier sees: one completion and what it is compared with.

    Attributes:
        prompt: the last message of the conversation.
        messages: the whole conversation before the completion; and
        token_ids: the completion's tokens. Both are filled only for verifiers that read them.
    """

    prompt: str
    completion: str
    reference: Json
    meta: Mapping[str, Json] = field(default_factory=dict)
    messages: Sequence[Message] = ()
    token_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a prompt.

    Attributes:
        token_ids: [T], the end-of-sequence token included when it was sampled; may be empty.
        text: what the verifier reads: token_ids decoded, special tokens and stop string removed.
        sampler_logprobs: [T], nats, under the very distribution the tokens were drawn from
            (temperature, top-k and top-p applied).
        finish_reason: "eos" a token of the model's EOS set; "stop" a stop string; "length" cut off.
        index: position within the group; (run seed, step, prompt id, index) seeds the draw.
        token_ends: [T] offset in `text` at which each token's text ends; filled where steps are
            rewarded, else empty.
    """

    token_ids: Sequence[int]
    text: str
    sampler_logprobs: Sequence[float]
    finish_reason: FinishReason
    index: int = 0
    token_ends: Sequence[int] = ()

    @property
    def is_truncated(self) -> bool:
        """True when the token limit cut the completion off."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A completion with everything that was decided about it.

    Attributes:
        verdicts: by verifier name, in the order of the config; the first is the judge, whose
            binary verdict pass rates rest on. Shadows, which give no reward, come last.
        components: reward contributions by name, weights applied; they add up to `reward`.
        reward: the shaped reward, or None when the completion is invalid.
        advantage: what the policy gradient is weighted with; exactly 0 when invalid.
        token_advantages: [T] where each token has its own, else empty; `advantage` is their mean.
    """

    completion: Completion
    verdicts: Mapping[str, Verdict]
    components: Mapping[str, float] = field(default_factory=dict)
    reward: float | None = None
    advantage: float = 0.0
    token_advantages: Sequence[float] = ()

    @property
    def is_valid(self) -> bool:
        """False when a verifier failed on it: left out of the group's mean and deviation."""
        return self.reward is not None

    @property
    def has_signal(self) -> bool:
        """True when its advantage, or that of one of its tokens, is not 0."""
        return self.advantage != 0 or any(self.token_advantages)

    @property
    def judgement(self) -> Verdict:
        """The first verifier's verdict."""
        return next(iter(self.verdicts.values()))


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """A prompt and its G rollouts: the record that is stored, shown, re-scored, and resumed.

    Attributes:
        is_trained: False for a group that was sampled and then replaced, for lack of signal.
    """

    prompt: Prompt
    prompt_token_ids: Sequence[int]
    rollouts: Sequence[Rollout]
    step: int = 0
    is_trained: bool = True


@dataclass(frozen=True, slots=True)
class ScoredCompletion:
    """What a reward shaper sees: a judged completion of a group."""

    prompt: Prompt
    completion: Completion
    verdict: Verdict
    max_new_tokens: int
