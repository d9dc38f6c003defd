"""The short check of a verifier: pairs whose verdict is known, and odd texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_core.testing.creation import create_instance
from grpo_core.testing.texts import for_any_text
from grpo_core.types import Json, Sample, Status, Verdict

Pair = tuple[str, Json]  # completion, reference


def check_verifier(
    verifier: Any,
    accept: Sequence[Pair] = (),
    reject: Sequence[Pair] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check a verifier against pairs whose verdict is known, and against odd texts.

    Each pair of `accept` must be judged correct, each of `reject` wrong or unparseable. A batch of
    n must give the same n verdicts as n single calls, two equal calls must give the same verdicts,
    every reference must pass `check_reference`, and no text may raise or make the verifier fail.

    Args:
        verifier: a verifier class, a function decorated with `grpo_core.verifier`, or an instance.
        accept: (completion, reference) pairs that are right.
        reject: (completion, reference) pairs that are not; at least one pair of either kind.
        options: the verifier's options, where it is not an instance.

    Raises:
        AssertionError: naming the first input that failed.
        ConfigError: if the options are wrong.
    """
    pairs = [*accept, *reject]
    assert pairs, "check_verifier needs at least one pair"
    instance = create_instance(verifier, options)
    samples = [_sample(completion, reference) for completion, reference in pairs]
    single = [_verify(instance, [sample])[0] for sample in samples]
    truths = [True] * len(accept) + [False] * len(reject)
    for sample, verdict, wanted in zip(samples, single, truths, strict=True):
        expected = "correct" if wanted else "wrong or unparseable"
        assert verdict.status.is_candidates and verdict.is_correct == wanted, (
            f"{_show(sample)} must be {expected}, is {verdict.status}: {verdict.reason}"
        )
        if hasattr(instance, "check_reference"):
            instance.check_reference(sample.reference)
    for number in (1, 2):
        batch = _verify(instance, samples)
        for sample, alone, together in zip(samples, single, batch, strict=True):
            assert _essence(alone) == _essence(together), (
                f"{_show(sample)} is {alone.status} alone and {together.status} in batch {number}"
            )
    references = [reference for _, reference in pairs]

    def never_fails(text: str) -> None:
        odd = [_sample(text, reference) for reference in references]
        for sample, verdict in zip(odd, _verify(instance, odd), strict=True):
            assert verdict.status.is_candidates or verdict.status is Status.ABSTAIN, (
                f"{_show(sample)} made the verifier fail: {verdict.status}: {verdict.reason}"
            )

    for_any_text(never_fails)


def _sample(completion: str, reference: Json) -> Sample:
    return Sample("What is 1 + 1?", completion, reference)


def _verify(instance: Any, samples: Sequence[Sample]) -> list[Verdict]:
    verdicts = list(instance.verify(samples))
    assert len(verdicts) == len(samples), f"{len(verdicts)} verdicts for {len(samples)} samples"
    for verdict in verdicts:
        assert isinstance(verdict, Verdict), f"got {verdict!r:.80}, not a Verdict"
    return verdicts


def _essence(verdict: Verdict) -> tuple[Status, float | None]:
    return verdict.status, verdict.score


def _show(sample: Sample) -> str:
    return f"completion {sample.completion!r:.200} with reference {sample.reference!r:.200}"
