"""What a judge may still cost: calls, and money by the prices of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.errors import VerifierError
from grpo_verifiers.judge.cache import OutcomeCache
from grpo_verifiers.judge.config import Limits

_BYTES_A_TOKEN = 3.0  # fewer than of most texts: an estimate on the safe side


class BudgetSpent(VerifierError):
    """The next call would go past max_calls or max_cost."""


@dataclass(slots=True)
class Usage:
    """Tokens that answers took, and what they cost; `cost` is 0 where there are no prices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    cost: float = 0.0


def read_usage(data: Mapping[str, Any]) -> Usage | None:
    """The tokens that an answer says it took; None where it does not."""
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        return None
    return Usage(int(counts[0] or 0), int(counts[1] or 0), 1)


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return int(len(text.encode()) / _BYTES_A_TOKEN) + 16


class Budget:
    """Counts every request before it is sent, so that requests under way cannot overrun it.

    Args:
        limits: of the options.
        ledger: keeps the counts from run to run, if it has a file.
    """

    def __init__(self, limits: Limits, ledger: OutcomeCache) -> None:
        self._limits = limits
        self._ledger = ledger
        self._calls, self._cost = ledger.spent()
        self._reserved = 0.0

    def cost(self, usage: Usage) -> float:
        """By the prices of the options."""
        read = usage.prompt_tokens * self._limits.input_price
        return (read + usage.completion_tokens * self._limits.output_price) / 1e6

    def reserve(self, expected: Usage) -> float:
        """Count a call and set its largest cost aside; returns that cost.

        Raises:
            BudgetSpent: if it does not fit any more; nothing is counted then.
        """
        limits, cost = self._limits, self.cost(expected)
        if limits.max_calls is not None and self._calls >= limits.max_calls:
            raise BudgetSpent(
                f"the judge's budget is spent: {self._calls} calls of limits.max_calls = "
                f"{limits.max_calls}. {self._cure('max_calls')}"
            )
        if limits.max_cost is not None and self._cost + self._reserved + cost > limits.max_cost:
            raise BudgetSpent(
                f"the judge's budget is spent: {self._cost:.6g} of limits.max_cost = "
                f"{limits.max_cost:g}, and the next call may cost {cost:.3g}. "
                f"{self._cure('max_cost')}"
            )
        self._calls += 1
        self._reserved += cost
        self._ledger.add_spent(1, 0.0)
        return cost

    def settle(self, reserved: float, actual: float) -> None:
        """Replace what was set aside for a call by what it did cost."""
        self._reserved -= reserved
        self._cost += actual
        self._ledger.add_spent(0, actual)

    def _cure(self, option: str) -> str:
        where = (
            " (counted in cache.path, over all runs that use it)" if self._ledger.has_file else ""
        )
        return f"Raise limits.{option} to go on{where}."
