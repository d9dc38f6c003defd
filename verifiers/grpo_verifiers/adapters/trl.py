"""TRL: `f(prompts, completions, completion_ids, **columns, trainer_state, log_extra, log_metric)`.

Returns one reward a completion, or None where it has no opinion; may be a coroutine. See the GRPO
trainer of TRL 1.16. The reference is passed as each of `solution`, `answer`, `ground_truth`, and
`reference` that the function takes and `meta` does not hold; every key of `meta` is a column.

What TRL has and a verifier has not: the whole batch (a call gets the samples that wait, not whole
groups), and the trainer's state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, model_validator

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.adapters.function import (
    FunctionAdapter,
    FunctionName,
    accepted,
    required,
)
from grpo_verifiers.adapters.options import AdapterOptions, pick, reward_verdict
from grpo_verifiers.adapters.values import as_json, as_numbers, item_of

_REFERENCE_NAMES = ("solution", "answer", "ground_truth", "reference")


class TrlOptions(AdapterOptions):
    """Options of a TRL reward function."""

    form: Literal["conversational", "plain"] = Field(
        default="conversational",
        description="Prompts and completions as lists of messages, or as texts.",
    )
    placement: Literal["workers", "process", "trainer"] = Field(
        default="process", description="Where it runs: see grpo_core.types.Verifier."
    )
    batch_size: int = Field(
        default=64, ge=1, description="How many samples one call may get: those that wait."
    )


class TrlConfig(TrlOptions):
    """The function or functions, and how their rewards are read."""

    function: FunctionName | Annotated[tuple[FunctionName, ...], Field(min_length=1)] = Field(
        description="As 'package.module:name' or 'path/to/file.py:name'; or a list of them, whose "
        "rewards are added up."
    )
    weights: tuple[float, ...] = Field(default=(), description="Of several functions; else 1.")

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        count = 1 if isinstance(self.function, str) else len(self.function)
        if self.weights and len(self.weights) != count:
            raise ValueError(f"{len(self.weights)} weights for {count} function(s): give one each.")
        return self


class TrlReward(FunctionAdapter):
    """A reward function, or several, written for TRL's GRPOTrainer."""

    reads = ("messages", "token_ids")
    Options = TrlOptions
    Config: type[AdapterOptions] = TrlConfig

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; a call of each function for all of them.

        Raises:
            VerifierError: if a function needs what there is not, or returns no rewards.
        """
        names = self.names or ["the function"]
        details: list[dict[str, Json]] = [{} for _ in samples]
        rewards = [
            self._rewards(function, name, samples, details)
            for function, name in zip(self.functions, names, strict=True)
        ]
        verdicts = []
        for at in range(len(samples)):
            own = [row[at] for row in rewards]
            if len(own) > 1:
                details[at]["rewards"] = dict(zip(names, own, strict=True))
            verdicts.append(reward_verdict(self._sum(own), self.config, details[at]))
        return verdicts

    def _sum(self, rewards: Sequence[float | None]) -> float | None:
        weights = getattr(self.config, "weights", ()) or (1.0,) * len(rewards)
        pairs = zip(weights, rewards, strict=True)
        given = [weight * reward for weight, reward in pairs if reward is not None]
        return math.fsum(given) if given else None

    def _rewards(
        self,
        function: Callable[..., Any],
        name: str,
        samples: Sequence[Sample],
        details: list[dict[str, Json]],
    ) -> list[float | None]:
        extra: dict[str, Json] = {}
        metrics: dict[str, Json] = {}
        columns = self._columns(function, samples)
        is_conversational = self.config.form == "conversational"
        arguments = {
            **columns,
            **self.config.arguments,
            "prompts": [_prompt(sample, is_conversational) for sample in samples],
            "completions": [_completion(sample, is_conversational) for sample in samples],
            "completion_ids": [list(sample.token_ids) for sample in samples],
            "trainer_state": _NoTrainer(),
            "log_extra": extra.__setitem__,
            "log_metric": metrics.__setitem__,
        }
        missing = sorted(required(function) - set(arguments))
        if missing:
            raise VerifierError(
                f"{name} needs {', '.join(missing)}, which the samples do not have. Say where it "
                f"comes from, such as columns = {{{missing[0]} = 'reference'}}; the samples have "
                f"meta {sorted(samples[0].meta) or 'without keys'}."
            )
        result = self.run(function, **accepted(function, arguments))
        rewards = [_none_if_nan(r) for r in as_numbers(result, len(samples), name)]
        for at, own in enumerate(details):
            if extra:
                items = {str(key): item_of(v, at, len(samples)) for key, v in extra.items()}
                own["log_extra"] = {**own.get("log_extra", {}), **items}
            if metrics:
                own["log_metric"] = {**own.get("log_metric", {}), **as_json(metrics)}
        return rewards

    def _columns(
        self, function: Callable[..., Any], samples: Sequence[Sample]
    ) -> dict[str, list[Json]]:
        keys = dict.fromkeys(key for sample in samples for key in sample.meta)
        for taken in ("prompt", "completion", "completion_ids"):
            keys.pop(taken, None)
        columns = {key: [sample.meta.get(key) for sample in samples] for key in keys}
        for name in accepted(function, dict.fromkeys(_REFERENCE_NAMES)):
            columns.setdefault(name, [sample.reference for sample in samples])
        for name, path in self.config.columns.items():
            columns[name] = [pick(sample, path) for sample in samples]
        return columns


class _NoTrainer:
    """Stands for the trainer's state, and says that there is none when it is asked."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"trainer_state.{name} is not known to a verifier, which judges each completion the "
            "same way at every step. Use a reward shaper, or the verifier's weight."
        )


def _prompt(sample: Sample, is_conversational: bool) -> Any:
    if not is_conversational:
        return sample.prompt
    messages = sample.messages or ({"role": "user", "content": sample.prompt},)
    return [dict(message) for message in messages]


def _completion(sample: Sample, is_conversational: bool) -> Any:
    if not is_conversational:
        return sample.completion
    return [{"role": "assistant", "content": sample.completion}]


def _none_if_nan(reward: float | None) -> float | None:
    """TRL itself writes None as NaN."""
    return None if reward is None or math.isnan(reward) else reward
