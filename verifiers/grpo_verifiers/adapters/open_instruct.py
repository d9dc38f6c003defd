"""open-instruct: a VerifierFunction, called as `f(tokenized_prediction, prediction, label, query)`.

It returns a VerificationResult(score, cost, reasoning). If it has an `async_call` of its own, that
is used instead, for all samples of a call at once. Options name the class or an instance; a class
is made with `arguments`, of which a table `verifier_config` is made into what `get_config_class()`
names. The label is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_core.errors import ConfigError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.adapters.function import (
    FunctionAdapter,
    FunctionName,
    accepted,
)
from grpo_verifiers.adapters.options import AdapterOptions, reward_verdict
from grpo_verifiers.adapters.values import as_json, as_number


class OpenInstructConfig(AdapterOptions):
    """The class or instance, and how its scores are read."""

    function: FunctionName


class OpenInstructVerifier(FunctionAdapter):
    """A VerifierFunction of open-instruct."""

    reads = ("token_ids",)
    Config: type[AdapterOptions] = OpenInstructConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._instance: Any = None

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order.

        Raises:
            VerifierError: if a score is none.
        """
        if self._instance is None:
            (target,) = self.functions
            self._instance = _make(target, self.config.arguments)
        if _is_asynchronous(self._instance):
            return self.each(samples, self._later)
        return self.each(samples, lambda sample: self._verdict(self._call(self._instance, sample)))

    async def _later(self, sample: Sample) -> Verdict:
        return self._verdict(await self._call(self._instance.async_call, sample))

    def _call(self, function: Callable[..., Any], sample: Sample) -> Any:
        extra = self.extra(sample, ("label", "query"))
        keywords = {"query": self.pick(sample, "query", "prompt"), **extra}
        return function(
            list(sample.token_ids),
            sample.completion,
            self.pick(sample, "label", "reference"),
            **accepted(function, keywords),
        )

    def _verdict(self, result: Any) -> Verdict:
        score = getattr(result, "score", result)
        cost = as_number(getattr(result, "cost", 0.0) or 0.0, "the verifier")
        reasoning = getattr(result, "reasoning", None)
        details: dict[str, Json] = {"cost": cost} if cost else {}
        if reasoning:
            details["reasoning"] = as_json(reasoning)
        return reward_verdict(as_number(score, "the verifier"), self.config, details)


def _make(target: Any, arguments: Mapping[str, Json]) -> Any:
    """The instance, made from its class where that is named.

    Raises:
        ConfigError: if there are arguments and nothing to make.
    """
    if not isinstance(target, type):
        if arguments:
            raise ConfigError(
                f"the option arguments is for making a {type(target).__name__}, but function "
                "names one that is made already. Remove arguments, or name the class."
            )
        return target
    given = dict(arguments)
    settings = given.get("verifier_config")
    if isinstance(settings, Mapping) and hasattr(target, "get_config_class"):
        given["verifier_config"] = target.get_config_class()(**settings)
    return target(**given)


def _is_asynchronous(instance: Any) -> bool:
    """Whether it has an `async_call` of its own: the base class's calls `__call__` in a thread."""
    owners = [
        next((at for at, kind in enumerate(type(instance).__mro__) if name in vars(kind)), None)
        for name in ("async_call", "__call__")
    ]
    return owners[0] is not None and (owners[1] is None or owners[0] <= owners[1])
