"""What plugin authors need to test their plugins, with or without pytest.

    def test_starts_with():
        check_verifier(starts_with, accept=[("yes, it is", "yes")], reject=[("no", "yes")])

Each check raises AssertionError with the input that failed. Texts are drawn at random as well where
hypothesis is installed (`pip install 'grpo-core[test]'`).
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grpo_core.types import (
    Completion,
    FinishReason,
    Json,
    Prompt,
    Sample,
    ScoredCompletion,
    Status,
    Verdict,
)
from grpo_core.validation import build

Pair = tuple[str, Json]  # completion, reference

ODD_TEXTS = (
    "",
    " \n\t ",
    "\x00\x1b[31m",
    "\N{REPLACEMENT CHARACTER}\N{RIGHT-TO-LEFT OVERRIDE}\N{GRINNING FACE}",
    "\\boxed{" * 50,
    "((((" * 200,
    "9" * 5000,
    "1e999999999",
    "<think>" + "so " * 2000,
    "{'a': [None, float('nan')]}",
    "'; DROP TABLE answers; --",
)
_VERDICTS = (Verdict.correct(), Verdict.wrong(), Verdict.unparseable(), Verdict.error())


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
    instance = _create(verifier, options)
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

    _for_any_text(never_fails)


def check_shaper(
    shaper: Any,
    group: Sequence[ScoredCompletion] = (),
    options: Mapping[str, Any] | None = None,
) -> list[float]:
    """Check that a shaper keeps its range on a group and on odd texts.

    Args:
        shaper: a shaper class, a function decorated with `grpo_core.shaper`, or an instance.
        group: completions of one prompt; `make_scored` makes them.
        options: the shaper's options, where it is not an instance.

    Returns:
        Its values for `group`.

    Raises:
        AssertionError: for a value outside of the range, or not one value a completion.
        ConfigError: if the options are wrong.
    """
    instance = _create(shaper, options)

    def values_of(group: Sequence[ScoredCompletion]) -> list[float]:
        values = list(instance.shape(group))
        assert len(values) == len(group), f"{len(values)} values for {len(group)} completions"
        low, high = instance.range
        for scored, value in zip(group, values, strict=True):
            assert math.isfinite(value) and low <= value <= high, (
                f"{value!r} for {scored.completion.text!r:.200} is outside of [{low}, {high}]"
            )
        return values

    def stays_in_range(text: str) -> None:
        values_of([make_scored(text, verdict=verdict) for verdict in _VERDICTS])
        values_of([make_scored(text), make_scored(""), make_scored(text + text)])

    _for_any_text(stays_in_range)
    return values_of(group)


def check_task(task: Any, options: Mapping[str, Any] | None = None) -> dict[str, Sequence[Prompt]]:
    """Check that a task always gives the same prompts, and that its splits share none.

    Args:
        task: a task class, or an instance.
        options: the task's options, where it is not an instance.

    Returns:
        The prompts of each split.

    Raises:
        AssertionError: naming the split and prompt that failed.
    """
    instance = _create(task, options)
    assert instance.evaluation_split in instance.splits, "evaluation_split is none of the splits"
    prompts = {split: instance.load(split) for split in instance.splits}
    seen: dict[tuple[str, str], str] = {}
    for split, loaded in prompts.items():
        assert loaded, f"split '{split}' is empty"
        assert list(instance.load(split)) == list(loaded), f"split '{split}' changed when reloaded"
        ids = [prompt.id for prompt in loaded]
        assert len(set(ids)) == len(ids), f"split '{split}' has an id twice"
        for prompt in loaded:
            assert prompt.reference is not None, f"'{prompt.id}' of '{split}' has no reference"
            content = str([dict(message) for message in prompt.messages])
            other = seen.setdefault((content, str(prompt.reference)), split)
            assert other == split, f"'{prompt.id}' of '{split}' stands in '{other}', too"
    return prompts


def make_scored(
    text: str,
    *,
    num_tokens: int | None = None,
    verdict: Verdict | None = None,
    finish_reason: FinishReason = "eos",
    max_new_tokens: int = 256,
    reference: Json = "",
) -> ScoredCompletion:
    """A judged completion as shapers get them; its tokens are one a character unless set."""
    length = len(text) if num_tokens is None else num_tokens
    return ScoredCompletion(
        prompt=Prompt("test:0", ({"role": "user", "content": "What is 1 + 1?"},), reference),
        completion=Completion(
            token_ids=tuple(ord(c) for c in text) if num_tokens is None else tuple(range(length)),
            text=text,
            sampler_logprobs=(-1.0,) * length,
            finish_reason=finish_reason,
        ),
        verdict=verdict or Verdict.correct(),
        max_new_tokens=max_new_tokens,
    )


def _create(target: Any, options: Mapping[str, Any] | None) -> Any:
    if not isinstance(target, type):
        assert options is None, "options go with a class; this is an instance"
        return target
    config = getattr(target, "Config", None)
    if config is None:
        assert not options, f"{target.__name__} has no options"
        return target()
    return target(build(config, options or {}, target.__name__))


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


def _for_any_text(check: Callable[[str], None]) -> None:
    """Run a check on fixed odd texts, and on random ones where hypothesis is installed."""
    for text in ODD_TEXTS:
        check(text)
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import given, settings
    from hypothesis import strategies as st

    @settings(max_examples=30, deadline=None, database=None)
    @given(st.text())
    def on_random_text(text: str) -> None:
        check(text)

    on_random_text()
