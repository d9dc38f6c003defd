"""A reference that cannot be read is found before training, and never becomes a verdict."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.errors import VerifierError
from grpo_core.testing.answers import ask, describe
from grpo_core.testing.bench import Bench, CheckFailed, CheckSkipped
from grpo_core.testing.example import Example
from grpo_core.types import Json

ODD_REFERENCES: tuple[Json, ...] = (
    *(None, True, 0, -1.5, float("nan"), float("inf"), 10**40, "", " ", "\ud800", "(" * 500),
    *([], [None], {}, {"a": {"b": [1]}}, [[[[]]]], {"tests": None}, "\\frac{1}{", "x" * 20_000),
)


def check_references(bench: Bench) -> Mapping[str, Json]:
    """`check_reference` agrees with `verify` about every reference, the oddest ones included."""
    check = getattr(bench.instance, "check_reference", None)
    if check is None:
        raise CheckSkipped(
            "it has no check_reference, so that unreadable references are found in training only"
        )
    for example in bench.main_examples:
        refusal = _refusal(bench, example.reference)
        is_unreadable = example.expected == "error"
        if is_unreadable == (refusal is None):
            said = "accepts it" if refusal is None else f"refuses it: {refusal}"
            wanted = "unreadable" if is_unreadable else "readable"
            raise CheckFailed(
                f"reference {example.reference!r:.200} is {wanted}, and check_reference {said}"
            )
    refused = [reference for reference in ODD_REFERENCES if not _agrees(bench, reference)]
    return {"odd": len(ODD_REFERENCES), "refused": len(refused)}


def _agrees(bench: Bench, reference: Json) -> bool:
    """Whether an odd reference is readable; fails if verify thinks otherwise."""
    refusal = _refusal(bench, reference)
    example: Example = (bench.references or bench.main_examples)[0]
    sample = Example(example.completion, reference, "any", example.prompt).sample(bench.reads)
    bench.say(f"reference {reference!r:.100}")
    answer = ask(bench.instance, [sample])[0]
    if answer.verdict is None and answer.problem != "raised":
        return refusal is None  # other checks tell of it
    if answer.verdict is None:
        raise CheckFailed(
            f"reference {reference!r:.200}: verify {answer}. Raise VerifierError for a reference "
            "that cannot be read, and only that."
        )
    if refusal is not None and answer.verdict.status.is_candidates:
        raise CheckFailed(
            f"check_reference refuses {reference!r:.200} ({refusal}), but verify judges by it: "
            f"{answer}. A row that cannot be read must not count as a candidate's fault."
        )
    if refusal is None and answer.verdict.status == "error":
        raise CheckFailed(
            f"check_reference accepts {reference!r:.200}, but verify cannot use it: {answer}. It "
            "would fail in training only."
        )
    return refusal is None


def _refusal(bench: Bench, reference: Json) -> str | None:
    """Why check_reference refuses a reference; None where it does not."""
    bench.say(f"reference {reference!r:.100}")
    try:
        bench.instance.check_reference(reference)
    except VerifierError as error:
        return str(error)
    except Exception as error:
        raise CheckFailed(
            f"check_reference({reference!r:.200}) {describe(error)}; only VerifierError is allowed"
        ) from error
    return None
