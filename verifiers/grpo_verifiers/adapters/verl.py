"""verl: `compute_score(data_source, solution_str, ground_truth, extra_info, **kwargs)`.

Returns a number, or a mapping with "score" and whatever else is worth keeping; may be a coroutine.
See verl's `custom_reward_function` and its reward managers. `ground_truth` is the reference;
`data_source` and `extra_info` come from `meta`, which is itself `extra_info` where it has none.

A function with the plural names (`solution_strs`, ...) is called once for the samples that wait;
set `placement = "process"` and a larger `batch_size` for it, and for a coroutine.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.adapters.function import (
    FunctionAdapter,
    FunctionName,
    accepted,
    required,
)
from grpo_verifiers.adapters.options import AdapterOptions, reward_verdict
from grpo_verifiers.adapters.values import as_json, as_number

_PLURALS = {
    "data_source": "data_sources",
    "solution_str": "solution_strs",
    "ground_truth": "ground_truths",
    "extra_info": "extra_infos",
}


class VerlConfig(AdapterOptions):
    """The function, and how its scores are read."""

    function: FunctionName


class VerlScore(FunctionAdapter):
    """A reward function written for verl: `compute_score`."""

    default_name = "compute_score"
    Config: type[AdapterOptions] = VerlConfig

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order.

        Raises:
            VerifierError: if the function returns no score.
        """
        (function,) = self.functions
        if "solution_strs" in required(function):
            return self._together(function, samples)
        return self.each(samples, lambda sample: self._one(function, sample))

    def _one(self, function: Callable[..., Any], sample: Sample) -> Verdict | Awaitable[Verdict]:
        arguments = {**self._standard(sample), **self.extra(sample, tuple(_PLURALS))}
        result = function(**accepted(function, {**arguments, **self.config.arguments}))
        if inspect.isawaitable(result):
            return self._later(result)
        return self._verdict(result)

    async def _later(self, result: Awaitable[Any]) -> Verdict:
        return self._verdict(await result)

    def _together(self, function: Callable[..., Any], samples: Sequence[Sample]) -> list[Verdict]:
        rows = [self._standard(sample) for sample in samples]
        columns = {plural: [row[name] for row in rows] for name, plural in _PLURALS.items()}
        results = self.run(function, **accepted(function, {**columns, **self.config.arguments}))
        results = results.tolist() if hasattr(results, "tolist") else results
        if not isinstance(results, list | tuple) or len(results) != len(samples):
            raise VerifierError(
                f"the function returned {type(results).__name__} where a list of {len(samples)} "
                "scores was expected."
            )
        return [self._verdict(result) for result in results]

    def _standard(self, sample: Sample) -> dict[str, Json]:
        """The four arguments; copies, because functions write into extra_info."""
        meta = copy.deepcopy(dict(sample.meta))
        columns = self.config.columns
        return {
            "data_source": self.pick(sample, "data_source", "meta.data_source")
            if "data_source" in columns or "data_source" in meta
            else "",
            "solution_str": self.pick(sample, "solution_str", "completion"),
            "ground_truth": copy.deepcopy(self.pick(sample, "ground_truth", "reference")),
            "extra_info": copy.deepcopy(self.pick(sample, "extra_info", "meta"))
            if "extra_info" in columns
            else meta.get("extra_info", meta),
        }

    def _verdict(self, result: Any) -> Verdict:
        details: dict[str, Json] = {}
        if isinstance(result, Mapping):
            if "score" not in result:
                raise VerifierError(
                    f"the function returned a mapping without 'score': {sorted(map(str, result))}."
                )
            details = {k: as_json(v) for k, v in result.items() if k != "score"}
            result = result["score"]
        return reward_verdict(as_number(result, "the function"), self.config, details)
