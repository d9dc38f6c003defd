from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from grpo_core import Verdict, shaper, verifier
from grpo_core.authoring import as_verdict
from grpo_core.errors import PluginError
from grpo_core.testing import make_scored
from grpo_core.types import Sample, Status

if TYPE_CHECKING:
    from grpo_core.types import Message as OnlyForTypeCheckers

SAMPLE = Sample("What?", "yes", "yes")


@verifier(version="1.5", candidate_bears_limits=True)
def strict(
    sample: OnlyForTypeCheckers,
    *,
    times: Annotated[int, Field(ge=1, le=9, description="how often")] = 1,
    mode: Literal["full", "part"] = "full",
) -> bool:
    """First line.

    Second line.
    """
    return sample.completion == sample.reference * times  # type: ignore[attr-defined]


def test_decorated_function_is_a_verifier_class() -> None:
    assert strict.version == "1.5"
    assert strict.candidate_bears_limits is True
    assert (strict.__name__, strict.__module__) == ("strict", __name__)
    assert (strict.__doc__ or "").startswith("First line.")
    verdicts = strict(strict.Config()).verify([SAMPLE, Sample("", "no", "yes")])
    assert [verdict.status for verdict in verdicts] == [Status.CORRECT, Status.WRONG]
    assert strict(strict.Config(times=2)).verify([Sample("", "abab", "ab")])[0].is_correct
    assert strict.function(SAMPLE, times=1) is True


def test_options_are_typed_described_and_frozen() -> None:
    field = strict.Config.model_fields["times"]
    assert (field.default, field.description) == (1, "how often")
    for wrong in ({"times": 0}, {"times": "many"}, {"mode": "half"}, {"tmies": 1}):
        with pytest.raises(ValidationError):
            strict.Config(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        strict.Config().times = 2


def test_instances_can_be_sent_to_another_process() -> None:
    instance = pickle.loads(pickle.dumps(strict(strict.Config(times=2))))
    assert instance.options == {"times": 2, "mode": "full"}


@pytest.mark.parametrize(
    ("value", "status", "score"),
    [
        (True, Status.CORRECT, 1.0),
        (False, Status.WRONG, 0.0),
        (1, Status.CORRECT, 1.0),
        (1.0, Status.CORRECT, 1.0),
        (0.25, Status.WRONG, 0.25),
        (Verdict.abstain("not sure"), Status.ABSTAIN, None),
    ],
)
def test_what_a_verifier_may_return(value: Any, status: Status, score: float | None) -> None:
    verdict = as_verdict(value)
    assert (verdict.status, verdict.score) == (status, score)


@pytest.mark.parametrize("value", [None, "yes", [1.0], object()])
def test_what_a_verifier_may_not_return(value: Any) -> None:
    with pytest.raises(TypeError, match="must return a Verdict, a bool, or a score"):
        as_verdict(value)


@pytest.mark.parametrize("value", [1.5, -0.1, float("nan"), float("inf")])
def test_scores_outside_of_the_range(value: float) -> None:
    with pytest.raises(ValueError, match="finite number in"):
        as_verdict(value)


def test_shaper() -> None:
    @shaper(range=(-2.0, 0.0), version="3")
    def half(scored: Any, *, factor: float = 1.0) -> float:
        return -factor * len(scored.completion.text)

    assert (half.range, half.version) == ((-2.0, 0.0), "3")
    values = half(half.Config(factor=0.5)).shape([make_scored("ab"), make_scored("")])
    assert values == [-1.0, 0.0] and all(isinstance(value, float) for value in values)


@pytest.mark.parametrize("bad", [(1.0, 0.0), (float("nan"), 1.0)])
def test_range_must_ascend(bad: tuple[float, float]) -> None:
    with pytest.raises(PluginError, match="must be \\(low, high\\)"):
        shaper(range=bad)


def two_positional(sample: Any, other: Any) -> bool:
    return True


def no_positional(*, a: int = 1) -> bool:
    return True


def any_options(sample: Any, **options: Any) -> bool:
    return True


@pytest.mark.parametrize("function", [two_positional, no_positional, any_options])
def test_wrong_signatures(function: Any) -> None:
    with pytest.raises(PluginError, match=rf"{function.__name__} must take exactly one positional"):
        verifier()(function)


def test_option_without_default() -> None:
    with pytest.raises(PluginError, match=r"option 'depth' of .*f has no default"):

        @verifier()
        def f(sample: Any, *, depth: int) -> bool:
            return True


def test_option_type_that_does_not_exist_at_run_time() -> None:
    with pytest.raises(PluginError, match=r"'OnlyForTypeCheckers' is not defined.*Import it"):

        @verifier()
        def f(sample: Any, *, depth: OnlyForTypeCheckers | None = None) -> bool:
            return True
