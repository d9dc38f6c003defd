"""No text makes a verifier raise, or say that it failed."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.testing.answers import ask, is_failure, show_sample
from grpo_core.testing.bench import Bench, CheckFailed
from grpo_core.testing.survey import Entry
from grpo_core.testing.texts import for_random_texts
from grpo_core.types import Json

NUM_RANDOM = 100
_SECONDS = 15.0  # for the random ones


def check_any_text(bench: Bench) -> Mapping[str, Json]:
    """The examples, fixed odd texts, and random ones where hypothesis is installed."""
    errors = [bench.sample(e) for e in bench.main_examples if e.expected in ("error", "timeout")]
    for entry in bench.survey.of("failed"):
        if entry.sample not in errors:
            _report(bench, entry)
    references = bench.references[:2]

    def never_fails(text: str) -> None:
        bench.say(text)
        for example in references:
            sample = bench.sample(example, text)
            answer = ask(bench.instance, [sample])[0]
            if answer.problem == "raised":
                raise CheckFailed(f"{show_sample(sample)} {answer.message}")
            if answer.verdict is not None and is_failure(answer.verdict):
                raise CheckFailed(f"{show_sample(sample)} made the verifier fail: {answer}")

    number = for_random_texts(never_fails, NUM_RANDOM, _SECONDS)
    evidence = {"texts": len(bench.survey.entries), "random_texts": number}
    return evidence if number else {**evidence, "note": "hypothesis is not installed"}


def _report(bench: Bench, entry: Entry) -> None:
    """Fail for what the survey saw, unless another check tells of it."""
    answer = ask(bench.instance, [entry.sample])[0]
    if answer.problem in ("score", "type", "count"):
        return
    if answer.verdict is not None and not is_failure(answer.verdict):
        return  # in the pool only: the check "process" or "details"
    raise CheckFailed(f"{show_sample(entry.sample)} made the verifier fail: {answer}")
