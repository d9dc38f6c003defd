"""OpenRLHF: `reward_func(queries, prompts, labels, **kwargs)` from a Python file.

Returns rewards as a tensor or list, or a mapping {"rewards", "scores", "extra_logs"}. See
`--remote_rm_url reward_func.py` of OpenRLHF. `queries` are prompt and completion, one after the
other as plain text: special tokens of the chat template, which OpenRLHF leaves in, are not there.
`labels` are the references. A call gets the samples that wait, not whole groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Verdict
from grpo_verifiers.adapters.function import (
    FunctionAdapter,
    FunctionName,
    accepted,
)
from grpo_verifiers.adapters.options import AdapterOptions, pick, reward_verdict
from grpo_verifiers.adapters.values import as_json, as_numbers, item_of


class OpenRlhfOptions(AdapterOptions):
    """Options of an OpenRLHF reward."""

    key: Literal["rewards", "scores"] = Field(
        default="rewards", description="Which of the two that OpenRLHF knows is the reward."
    )
    placement: Literal["workers", "process", "trainer"] = Field(
        default="process", description="Where it runs: see grpo_core.types.Verifier."
    )
    batch_size: int = Field(
        default=64, ge=1, description="How many samples one call may get: those that wait."
    )


class OpenRlhfConfig(OpenRlhfOptions):
    """The function, and how its rewards are read."""

    function: FunctionName


class OpenRlhfReward(FunctionAdapter):
    """A reward function written for OpenRLHF: `reward_func`."""

    default_name = "reward_func"
    Options = OpenRlhfOptions
    Config: type[AdapterOptions] = OpenRlhfConfig

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order.

        Raises:
            VerifierError: if the function returns no rewards.
        """
        (function,) = self.functions
        queries, prompts, labels = as_queries(samples, self.config)
        rows = [self.extra(sample, ("labels",)) for sample in samples]
        extra = {name: [row[name] for row in rows] for name in rows[0]}
        keywords = accepted(function, {**extra, **self.config.arguments})
        result = self.run(function, queries, prompts, labels, **keywords)
        return read_rewards(result, len(samples), self.config, "the function")


def as_queries(
    samples: Sequence[Sample], options: AdapterOptions
) -> tuple[list[str], list[str], list[Json]]:
    """What OpenRLHF calls queries, prompts, and labels."""
    prompts = [sample.prompt for sample in samples]
    queries = [sample.prompt + sample.completion for sample in samples]
    path = options.columns.get("labels", "reference")
    return queries, prompts, [pick(sample, path) for sample in samples]


def read_rewards(result: Any, count: int, options: OpenRlhfOptions, who: str) -> list[Verdict]:
    """Verdicts of what a reward function or server of OpenRLHF returned.

    Raises:
        VerifierError: if it has no rewards, or not one a sample.
    """
    table = result if isinstance(result, Mapping) else {"rewards": result}
    if table.get(options.key) is None:
        raise VerifierError(
            f"{who} returned a mapping without '{options.key}': {sorted(map(str, table))}. Set the "
            "option key to 'rewards' or 'scores'."
        )
    rewards = as_numbers(table[options.key], count, who)
    other = "scores" if options.key == "rewards" else "rewards"
    verdicts = []
    for at, reward in enumerate(rewards):
        details: dict[str, Json] = {}
        if table.get(other) is not None:
            details[other] = item_of(table[other], at, count)
        logs = table.get("extra_logs")
        if isinstance(logs, Mapping) and logs:
            details["extra_logs"] = {str(k): item_of(v, at, count) for k, v in logs.items()}
        elif logs:
            details["extra_logs"] = as_json(logs)
        verdicts.append(reward_verdict(reward, options, details))
    return verdicts
