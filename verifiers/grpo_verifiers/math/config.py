"""Options of the math verifier: how strictly an answer is compared with its reference."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MathConfig(BaseModel):
    """Options of the math verifier.

    The defaults accept every way of writing the value that was asked for, and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    require_boxed: bool = Field(
        default=False, description="Accept an answer only inside \\boxed{} or \\fbox{}."
    )
    percent: Literal["either", "value", "unit"] = Field(
        default="either",
        description="What a percent sign on one side only means. value: 50% is 0.5; "
        "unit: 50% is 50; either: 50% equals both.",
    )
    tolerance: float = Field(
        default=0.0,
        ge=0.0,
        le=0.1,
        description="Largest difference between numbers that still counts as equal, relative "
        "to the reference. 0 compares exactly: 0.3333 is not 1/3.",
    )
    approximate: Literal["reference", "never"] = Field(
        default="reference",
        description="Whether a decimal reference of two or more places is taken for a rounded one. "
        "reference: 3.14 also accepts pi, which rounds to it, but no longer decimal; "
        "never: it does not.",
    )
    order: Literal["tuples", "lists", "none"] = Field(
        default="tuples",
        description="Where the order of several answers counts. tuples: in (1,2), not in 1,2 or "
        "{1,2}; lists: also in 1,2; none: nowhere, also (1,2) equals (2,1).",
    )
    units: Literal["optional", "required"] = Field(
        default="optional",
        description="Whether the unit of measurement of a reference may be left out. A wrong one "
        "is always wrong, and units of one kind are converted: 1 m equals 100 cm.",
    )
    degrees: Literal["number", "angle"] = Field(
        default="number",
        description="What a degree sign means. number: 90° is 90; angle: 90° is also pi/2.",
    )
    base: Literal["optional", "required"] = Field(
        default="optional",
        description="Whether the base of a reference such as 1011_2 may be left out.",
    )
    variables: Literal["strict", "any"] = Field(
        default="strict",
        description="Whether variables must be named as in the reference. any: 2t+1 equals 2x+1.",
    )
    form: Literal["any", "simplified", "same"] = Field(
        default="any",
        description="Which form an answer of the right value must have. simplified: lowest terms, "
        "nothing left to compute; same: written as the reference, but for spelling.",
    )
