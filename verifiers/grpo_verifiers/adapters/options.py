"""Options that all adapters share, and the step from a reward to a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Status, Verdict

_ROUNDING = 1e-6  # of the range: rewards are often sums in float32


class AdapterOptions(BaseModel):
    """What a reward means, and where arguments come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float = Field(default=0.0, description="The lowest reward; becomes the score 0.")
    high: float = Field(default=1.0, description="The highest reward; becomes the score 1.")
    correct_at: float | None = Field(
        default=None, description="Lowest reward of the verdict 'correct'. None: high."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Where arguments come from, such as {answer = 'reference', "
        "level = 'meta.difficulty'}: reference, prompt, completion, or meta, and keys in them.",
    )
    arguments: dict[str, Json] = Field(
        default_factory=dict, description="More keyword arguments, the same for every call."
    )
    placement: Literal["workers", "process", "trainer"] = Field(
        default="workers", description="Where it runs: see grpo_core.types.Verifier."
    )
    batch_size: int = Field(
        default=1, ge=1, description="How many samples one call may get: those that wait."
    )

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high, got {self.low:g} and {self.high:g}.")
        if self.correct_at is not None and not self.low < self.correct_at <= self.high:
            raise ValueError(
                f"correct_at must be above low = {self.low:g} and at most high = {self.high:g}, "
                f"got {self.correct_at:g}."
            )
        return self


def reward_verdict(
    reward: float | None, options: AdapterOptions, details: Mapping[str, Json], reason: str = ""
) -> Verdict:
    """The verdict of a reward in [low, high]; None is no opinion.

    Raises:
        VerifierError: if the reward is outside of the range, or no number.
    """
    if reward is None:
        return Verdict.abstain(reason or "the function has no reward for this sample", details)
    low, high = options.low, options.high
    slack = _ROUNDING * (high - low)
    if not low - slack <= reward <= high + slack:  # NaN, too
        raise VerifierError(
            f"the reward {reward:g} is outside of [low, high] = [{low:g}, {high:g}]. Set the "
            "options low and high to the lowest and highest reward of the function."
            if math.isfinite(reward)
            else f"the reward is {reward}, which is no number. Repair the function."
        )
    score = min(1.0, max(0.0, (reward - low) / (high - low)))
    correct_at = high if options.correct_at is None else options.correct_at
    status = Status.CORRECT if reward >= correct_at - slack else Status.WRONG
    text = reason or f"reward {reward:g} of [{low:g}, {high:g}]"
    return Verdict(status, score, text, {"reward": reward, **details})


def pick(sample: Sample, path: str) -> Json:
    """What `columns` names: "reference", "prompt", "completion", "meta", and keys in them.

    Raises:
        VerifierError: if the sample has no such thing.
    """
    root, *keys = path.split(".")
    roots = {
        "reference": sample.reference,
        "prompt": sample.prompt,
        "completion": sample.completion,
        "meta": dict(sample.meta),
    }
    value: Json = roots
    for key in (root, *keys):
        if not isinstance(value, Mapping) or key not in value:
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "none"
            raise VerifierError(
                f"columns names '{path}', but this sample has no '{key}' there; it has: "
                f"{known or 'none'}. Correct the option columns, or the data set."
            )
        value = value[key]
    return value
