"""Samples of known verdict: can this judge be trusted with this rubric?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from grpo_core.errors import ConfigError
from grpo_core.types import Sample, Verdict
from grpo_verifiers.judge.config import Canary, Guard


def find_canaries(guard: Guard) -> list[Canary]:
    """Those of the options and of the file.

    Raises:
        ConfigError: if the file cannot be read.
    """
    found = list(guard.canaries)
    if guard.canary_file is not None:
        try:
            lines = Path(guard.canary_file).read_text(encoding="utf-8").split("\n")
            found += [Canary.model_validate_json(line) for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            first = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"guard.canary_file '{guard.canary_file}' cannot be read: {first}. Each line must "
                'be JSON such as {"prompt": "2 + 2?", "completion": "5", "reference": "4", '
                '"correct": false}.'
            ) from error
    return found


def as_sample(canary: Canary) -> Sample:
    """What the judge gets to see of it."""
    return Sample(canary.prompt, canary.completion, canary.reference)


def disagreements(canaries: Sequence[Canary], verdicts: Sequence[Verdict]) -> list[str]:
    """Where a verdict is not what it must be, in words; failures to judge apart."""
    return [
        f"{canary.completion!r:.100} to {canary.prompt!r:.100} must be "
        f"{'correct' if canary.correct else 'wrong'}, is {verdict.status} ({verdict.reason:.200})"
        for canary, verdict in zip(canaries, verdicts, strict=True)
        if (verdict.status.is_candidates or verdict.status == "abstain")
        and verdict.is_correct != canary.correct
    ]
