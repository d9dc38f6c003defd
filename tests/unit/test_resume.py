"""What a resumed run may change."""

from __future__ import annotations

import pytest

from grpo_core.config import RunConfig, resolved
from grpo_core.errors import ConfigError
from grpo_core.overrides import apply_override
from grpo_core.training.resume import check_same_run, is_finished
from grpo_core.validation import build

VERIFIERS = [{"name": "math", "weight": 1.0, "options": {"places": 2}}]
RECORDED = resolved(build(RunConfig, {"verifiers": VERIFIERS, "seed": 3}))


def changed(*overrides: str) -> RunConfig:
    values = dict(resolved(build(RunConfig, RECORDED)))
    for override in overrides:
        apply_override(values, override)
    return build(RunConfig, values)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.steps=7",
        "trainer.save_every=7",
        "trainer.keep_checkpoints=7",
        "trainer.micro_batch_tokens=7",
        "sampling.batch_size=7",
        "evaluation.every=7",
        "evaluation.split=other",
        "verification.workers=7",
        "verification.on_error=zero",
        "trackers=['a', 'b']",
    ],
)
def test_what_may_change(override: str) -> None:
    check_same_run(RECORDED, changed(override))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=4", "seed: 3 in the run, 4 now"),
        ("sampling.temperature=0.5", "sampling.temperature: 1.0 in the run, 0.5 now"),
        ("trainer.learning_rate=1", "trainer.learning_rate: 1e-05 in the run, 1.0 now"),
        ("model.path=x", 'model.path: "HuggingFaceTB/SmolLM2-135M-Instruct" in the run, "x" now'),
        ("task.options.size=4", "task.options.size: nothing in the run, 4 now"),
        ("verifiers.0.options.places=3", "verifiers.0.options.places: 2 in the run, 3 now"),
        ("verifiers=[]", 'verifiers.0.name: "math" in the run, nothing now'),
        ("shapers=[{name='x'}]", 'shapers.0.name: nothing in the run, "x" now'),
        ("task.options.token=abc", "task.options.token: [redacted] in the run"),
    ],
)
def test_what_may_not(override: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_same_run(RECORDED, changed(override))
    message = str(caught.value)
    assert f"\n  {line}" in message
    assert "start a new run without --resume" in message
    assert "trainer.steps, trainer.save_every" in message


def test_all_differences_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_same_run(RECORDED, changed("seed=4", "grpo.beta=0.1", "trainer.steps=9"))
    assert [line.split(":")[0] for line in str(caught.value).splitlines() if "now" in line] == [
        "  seed",
        "  grpo.beta",
    ]


def test_settings_that_the_run_did_not_know_yet_are_at_their_defaults() -> None:
    check_same_run({"seed": 3, "verifiers": VERIFIERS}, build(RunConfig, RECORDED))
    with pytest.raises(ConfigError, match="seed: 0 in the run, 3 now"):
        check_same_run({"verifiers": VERIFIERS}, build(RunConfig, RECORDED))


@pytest.mark.parametrize(
    ("summary", "steps", "expected"),
    [
        ({"status": "finished", "steps": 4}, 4, True),
        ({"status": "finished", "steps": 4}, 3, True),
        ({"status": "finished", "steps": 4}, 5, False),
        ({"status": "interrupted", "steps": 4}, 4, False),
        ({"status": "failed", "steps": 4}, 4, False),
        ({}, 4, False),
    ],
)
def test_is_finished(summary: dict, steps: int, expected: bool) -> None:
    assert is_finished(summary, changed(f"trainer.steps={steps}")) is expected
