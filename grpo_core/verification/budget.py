"""Stop a run whose verifier fails too often, before it trains on what is left."""

from __future__ import annotations

import json
from collections import Counter, deque

from grpo_core.errors import ConfigError, ErrorBudgetExceeded
from grpo_core.types import Completion, Json, Prompt, Status, Verdict

_FAILURES = (Status.TIMEOUT, Status.ERROR)
_EXCERPT = 300  # characters of an input that a message shows


class ErrorBudget:
    """Watches the share of timeouts and errors among each verifier's recent verdicts.

    Every verifier has its own window, so that a healthy one does not hide a broken one. The share
    is taken of at least `minimum` verdicts, as if those that are still to come were fine: with the
    defaults 1 failure among the first 3 verdicts is 1 of 20, which is no reason to stop, and a
    verifier that always fails is stopped at its third verdict. A limit of 1 never stops.

    Args:
        limit: largest share that is accepted, in [0, 1].
        window: how many verdicts of a verifier count.
        minimum: see above.

    Raises:
        ConfigError: if the numbers make no sense.
    """

    def __init__(self, limit: float, window: int = 200, minimum: int = 20) -> None:
        if not 0 <= limit <= 1:
            raise ConfigError(f"verification.error_budget must be in [0, 1], got {limit}.")
        if not 1 <= minimum <= window:
            raise ConfigError(f"need 1 <= minimum <= window, got {minimum} and {window}.")
        self._limit = limit
        self._window = window
        self._minimum = minimum
        self._recent: dict[str, deque[Status]] = {}

    def observe(self, verdict: Verdict, prompt: Prompt, completion: Completion) -> None:
        """Take note of a verdict and of what was judged.

        Raises:
            ErrorBudgetExceeded: naming the verifier, the share, this input, and the cure.
        """
        recent = self._recent.setdefault(verdict.verifier, deque(maxlen=self._window))
        recent.append(verdict.status)
        if verdict.status not in _FAILURES:
            return
        counts = Counter(recent)
        failures = sum(counts[status] for status in _FAILURES)
        if failures > self._limit * max(len(recent), self._minimum):
            raise ErrorBudgetExceeded(
                f"verifier '{verdict.verifier}' (version {verdict.version or '0'}) failed on "
                f"{failures} of its last {len(recent)} verdicts ({failures / len(recent):.1%}; "
                f"{counts[Status.TIMEOUT]} timeouts, {counts[Status.ERROR]} errors). The error "
                f"budget is {self._limit:.1%}. The last one: {verdict.status} on prompt "
                f"'{prompt.id}': {verdict.reason or 'no reason given'}\n"
                f"  reference:  {_excerpt(prompt.reference)}\n"
                f"  completion: {_excerpt(completion.text)}\n"
                f"{_cure(counts)}"
            )


def _cure(counts: Counter[Status]) -> str:
    first = (
        "Raise verification.deadline, or make the verifier faster"
        if counts[Status.TIMEOUT] > counts[Status.ERROR]
        else "Repair the verifier or what it depends on"
    )
    return f"{first}; to accept a larger share, set verification.error_budget."


def _excerpt(value: Json) -> str:
    """A value on one line that can be printed, its middle left out when it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates
    if len(text) <= _EXCERPT:
        return text
    half = _EXCERPT // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
