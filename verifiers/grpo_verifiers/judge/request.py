"""From a sample to what the judge is asked about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.judge.cache import cache_key
from grpo_verifiers.judge.candidate import fence, prepare
from grpo_verifiers.judge.config import JudgeConfig
from grpo_verifiers.judge.forms import Form, correctness_form, rubric_form
from grpo_verifiers.judge.screen import find_emptiness
from grpo_verifiers.judge.templates import fill, find_template
from grpo_verifiers.reasoning import final_part
from grpo_verifiers.remote.trace import Trace

_KEY_VERSION = 1  # raised when what is asked, or how an answer is read, changes


@dataclass(slots=True)
class Request:
    """One question to the judge.

    Attributes:
        key: equal for requests that must have the same verdict.
        values: of the template's placeholders, the answer's fence apart.
        left_out: characters of the answer that the judge does not see.
        trace: what happened to it.
    """

    key: str
    values: Mapping[str, str]
    left_out: int = 0
    trace: Trace = field(default_factory=Trace)


class RequestWriter:
    """Writes requests by the options.

    Raises:
        ConfigError: if the template cannot be read.
    """

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._template = find_template(config.template, config.template_file)
        explain = config.answering.explain
        self.form: Form = (
            rubric_form(config.criteria, explain) if config.criteria else correctness_form(explain)
        )
        is_rubric = config.template == "rubric" and config.template_file is None
        self._needs_reference = "{reference}" in self._template and not is_rubric
        self._criteria = "\n".join(
            f"- {c.name} (0 to {c.points} points): {c.description}" for c in config.criteria
        )

    def check_reference(self, reference: Json) -> None:
        """Refuse a missing reference where the template shows it.

        Raises:
            VerifierError: if it is missing.
        """
        if self._needs_reference and reference in (None, ""):
            raise VerifierError(
                "the judge's template shows the reference, but there is none. Give the data set "
                "references, or use template = 'rubric', or a text of your own without {reference}."
            )

    def write(self, sample: Sample) -> Request | Verdict:
        """The request for a sample; or its verdict, where there is nothing to ask."""
        try:
            self.check_reference(sample.reference)
        except VerifierError as error:
            return Verdict.error(str(error))
        answer = final_part(sample.completion)
        if answer is None:
            return Verdict.unparseable("the completion ends before its reasoning does")
        if not answer.strip():
            return Verdict.unparseable("the answer is empty")
        if self._config.guard.screen:
            emptiness = find_emptiness(answer, sample.reference, sample.prompt)
            if emptiness is not None:
                return Verdict.wrong(f"the answer {emptiness}", {"screened": emptiness})
        return self._request(sample, answer.strip())

    def prompt(self, request: Request, as_json: bool) -> str:
        """What the judge reads, with a fence that is new each time."""
        values = {
            **request.values,
            "completion": fence(request.values["completion"]),
            "format": self.form.instruction(as_json),
        }
        return fill(self._template, values)

    def _request(self, sample: Sample, answer: str) -> Request:
        candidate = prepare(answer, self.form, self._config.guard.max_chars)
        values = {
            "prompt": _clean(sample.prompt),
            "reference": _text(sample.reference),
            "criteria": self._criteria,
            "completion": candidate.text,
        }
        config = self._config
        asked = config.answering.model_dump(mode="json")
        key = cache_key(
            [_KEY_VERSION, config.model, self._template, self.form.schema, asked, values]
        )
        return Request(key, values, candidate.left_out)


def _text(reference: Json) -> str:
    if reference is None:
        return ""
    return _clean(reference if isinstance(reference, str) else json.dumps(reference))


def _clean(text: str) -> str:
    """Text without lone surrogates, which no server takes."""
    return text.encode(errors="replace").decode()
