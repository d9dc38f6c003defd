"""Options of the judge."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from grpo_core.errors import unknown_name
from grpo_core.types import Json
from grpo_verifiers.judge.templates import BUILT_IN, PLACEHOLDERS
from grpo_verifiers.remote.address import check_address

_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,39}$"
_RESERVED = ("reasoning",)


class _Options(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Criterion(_Options):
    """One line of a rubric."""

    name: str = Field(pattern=_NAME, description="One word; the judge answers by it.")
    description: str = Field(min_length=1, description="What earns the points.")
    points: int = Field(default=4, ge=1, le=10, description="The most that can be given.")
    weight: float = Field(default=1.0, gt=0, description="Share in the score.")


class Canary(_Options):
    """A sample whose verdict is known, to find out whether the judge can be trusted."""

    prompt: str = Field(description="The question.")
    completion: str = Field(description="The answer to judge.")
    correct: bool = Field(description="What the judge must say.")
    reference: Json = Field(default=None, description="As a task has it.")


class Answering(_Options):
    """How the judge is asked."""

    output: Literal["auto", "json_schema", "text"] = Field(
        default="auto",
        description="json_schema: structured output; text: a last line 'Verdict: CORRECT'; auto: "
        "structured output, and text once the server refuses it.",
    )
    explain: bool = Field(default=True, description="Have it give its reasons before the verdict.")
    temperature: float | None = Field(default=0.0, ge=0, le=2, description="None: not sent.")
    max_tokens: int = Field(default=1024, ge=1, description="Of the judge's answer.")
    votes: int = Field(default=1, ge=1, le=64, description="Answers for one verdict.")
    aggregate: Literal["median", "mean"] = Field(default="median", description="Of the votes.")
    extra: dict[str, Json] = Field(
        default_factory=dict, description="More fields of the request, such as reasoning_effort."
    )

    @model_validator(mode="after")
    def _votes_differ(self) -> Self:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError(
                f"votes = {self.votes} needs temperature > 0, got 0: all votes would be the same. "
                "Set answering.temperature, such as 0.7."
            )
        return self


class Limits(_Options):
    """What the judge may cost, in time and money."""

    concurrency: int = Field(default=8, ge=1, le=1024, description="Requests under way at most.")
    attempts: int = Field(default=5, ge=1, le=20, description="Requests for one answer.")
    timeout: float = Field(default=60.0, gt=0, description="Seconds for one request.")
    deadline: float = Field(default=300.0, gt=0, description="Seconds for a batch of samples.")
    requests_per_minute: float | None = Field(default=None, gt=0, description="None: no limit.")
    tokens_per_minute: float | None = Field(default=None, gt=0, description="None: no limit.")
    max_calls: int | None = Field(default=None, ge=0, description="Requests in all, retries too.")
    max_cost: float | None = Field(default=None, ge=0, description="In all, in the prices' unit.")
    input_price: float = Field(default=0.0, ge=0, description="Per million tokens read.")
    output_price: float = Field(default=0.0, ge=0, description="Per million tokens written.")
    when_spent: Literal["error", "abstain"] = Field(
        default="error", description="Verdicts after max_calls or max_cost; errors stop the run."
    )

    @model_validator(mode="after")
    def _cost_has_prices(self) -> Self:
        if self.max_cost is not None and not (self.input_price or self.output_price):
            raise ValueError(
                f"max_cost = {self.max_cost:g} needs prices to count with. Set limits.input_price "
                "and limits.output_price, per million tokens, or limit the calls with max_calls."
            )
        return self


class Cache(_Options):
    """Verdicts that need not be asked for again."""

    size: int = Field(default=4096, ge=0, description="Verdicts kept in memory; 0: none.")
    path: str | None = Field(
        default=None,
        description="SQLite file that keeps verdicts, and what was spent, from run to run.",
    )


class Guard(_Options):
    """What keeps the judge from being fooled, and shows when it is."""

    screen: bool = Field(
        default=True, description="Judge answers without content wrong, without a call."
    )
    max_chars: int = Field(
        default=20_000, ge=100, description="Of an answer; the middle of a longer one is left out."
    )
    canaries: tuple[Canary, ...] = Field(
        default=(), description="Samples of known verdict, judged before the first sample."
    )
    canary_file: str | None = Field(default=None, description="More of them, one JSON a line.")
    when_wrong: Literal["error", "report"] = Field(
        default="error", description="On a canary: refuse to judge, or say so and go on."
    )


def _with_completion(template: str) -> str:
    if template in BUILT_IN or "{completion}" in template:
        return template
    if not re.search(r"[\s{]", template):
        raise ValueError(unknown_name("template", template, BUILT_IN, "Or write your own text."))
    known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    raise ValueError(
        f"a template of your own must contain {{completion}}, got {template!r:.80}. "
        f"Placeholders: {known}."
    )


class JudgeConfig(_Options):
    """Options of the judge."""

    base_url: Annotated[str, AfterValidator(lambda url: check_address(url, "base_url"))] = Field(
        description="Of the OpenAI-compatible endpoint, such as 'http://127.0.0.1:8000/v1'."
    )
    model: str = Field(min_length=1, description="The judge's name at the endpoint.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the endpoint's key."
    )
    template: Annotated[str, AfterValidator(_with_completion)] = Field(
        default="correctness",
        description="'correctness' (against the reference), 'rubric' (criteria), or your own text "
        "with {prompt}, {reference}, {completion}, {criteria}, {format}.",
    )
    template_file: str | None = Field(default=None, description="Your own text, in a file.")
    criteria: tuple[Criterion, ...] = Field(default=(), description="Of a rubric.")
    correct_at: float = Field(
        default=1.0, gt=0, le=1, description="Lowest score of the binary verdict 'correct'."
    )
    answering: Answering = Field(default=Answering(), description="How the judge is asked.")
    limits: Limits = Field(default=Limits(), description="Rates, retries, and the budget.")
    cache: Cache = Field(default=Cache(), description="Verdicts that are kept.")
    guard: Guard = Field(default=Guard(), description="What keeps the judge from being fooled.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.template == "rubric" and not self.criteria and self.template_file is None:
            raise ValueError(
                "template 'rubric' needs criteria, got none. Set criteria to a list of "
                '{name = "clarity", description = "...", weight = 1.0}.'
            )
        if self.template == "correctness" and self.criteria and self.template_file is None:
            raise ValueError("criteria belong to a rubric. Set template = 'rubric'.")
        names = [criterion.name.casefold() for criterion in self.criteria]
        if len(set(names)) < len(names) or set(names) & set(_RESERVED):
            raise ValueError(
                f"criteria must have names that differ, none of them 'reasoning', got {names}."
            )
        return self
