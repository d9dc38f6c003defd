"""The benchmarks of a GRPO step, on tiny models: counts, memory, gradients; never timings."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny_model import save_tiny_model

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import grpo_step
import step_scaling
from step.gradients import compare
from step.probe import StepRecord
from step.results import step_ratio, summarise
from step.roofline import Machine, Weights, Work, bounds

BENCHMARKS = Path(grpo_step.__file__).parent
HAS_TRL = importlib.util.find_spec("trl") is not None
PROMPTS, GROUP, LENGTH = 2, 4, 8


def run(script: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What a script prints, and the object on its last line."""
    finished = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments, "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout, json.loads(finished.stdout.splitlines()[-1])


def record(seconds: float = 1.0, **changes: Any) -> StepRecord:
    """A quiet step of 60 completion and 40 prompt tokens, all trained."""
    values: dict[str, Any] = {
        "step": 2,
        "seconds": seconds,
        "phases": {"sample": 0.25 * seconds, "forward": 0.25 * seconds, "backward": 0.25 * seconds},
        "completion_tokens": 60,
        "prompt_tokens": 40,
        "longest": 8,
        "trained_tokens": 60.0,
        "positions": {"sample": 200, "train": 400},
        "peak_mb": 100.0,
        "grown_mb": 10.0,
        "workers_mb": 5.0,
        "canary_ms": (1.0, 1.1),
        "foreign": 0.0,
    }
    return StepRecord(**values | changes)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_grpo_step_compares_all_sides(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    text, found = run(
        "grpo_step.py", "--model", str(model), "--prompts", str(PROMPTS), "--group-size",
        str(GROUP), "--max-new-tokens", str(LENGTH), "--repeats", "1", "--steps", "1",
    )  # fmt: skip
    ours = {"ours", "ours_signal", "ours_plain"}
    theirs = {"trl_default", "trl_best"} if HAS_TRL else set()
    spinning = found["threads"]["spinning"]
    assert set(spinning["sides"]) == ours | theirs
    for side in spinning["sides"].values():
        assert side["steps"] == 1
        assert 0 < side["completion_tokens"] <= PROMPTS * GROUP * LENGTH
        assert 0 < side["longest"] <= LENGTH
        assert side["peak_mb"] > 10
    full, signal = spinning["sides"]["ours"], spinning["sides"]["ours_signal"]
    assert full["trained_tokens"] == full["completion_tokens"]
    assert full["trained_prompt_tokens"] == full["prompt_tokens"]
    assert signal["trained_tokens"] <= signal["completion_tokens"]
    assert spinning["sides"]["ours_plain"]["useful_train"] < 1
    assert spinning["bounds"]["ours"]["sample"]["memory"] > 0
    assert spinning["bounds"]["ours"]["forward_backward"]["compute"] > 0
    assert found["roofline_ratio"] > 0
    assert found["step_ratio_plain"] > 0
    for name in ("step_ratio_trl_default", "step_ratio_trl_best", "step_ratio_signal_only",
                 "memory_ratio_trl"):  # fmt: skip
        assert (found[name] is not None) is HAS_TRL
    if HAS_TRL:
        assert found["max_gradient_error"] < 1e-4
        assert found["gradient"]["global_error"] <= found["max_gradient_error"]
    else:
        assert found["max_gradient_error"] is None
        assert "pip install" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_step_scaling_varies_one_size_at_a_time() -> None:
    _, found = run("step_scaling.py", "--small", "--steps", "1", "--axes", "completion", "corners")
    short, long = found["axes"]["completion"]["rows"]
    base = found["settings"]["base"]
    most = [base["prompts"] * base["group_size"] * row["size"] for row in (short, long)]
    assert 0.8 * most[0] < short["summary"]["completion_tokens"] <= most[0]
    assert most[0] < long["summary"]["completion_tokens"] <= most[1]
    assert short["weights"] == long["weights"] > 0
    assert set(found["axes"]["completion"]["exponents"]) >= {"step s", "sample s", "memory MB"}
    assert found["corners"]["vocabulary_ratio"] == 2


def test_without_trl_only_ours_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sides = grpo_step.chosen_sides(grpo_step.parse([]), grpo_step.BEST)
    assert [side.name for side in sides] == ["ours", "ours_signal", "ours_plain"]
    assert "pip install -e '.[bench,test]'" in capsys.readouterr().out


def test_micro_batches_of_trl_divide_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    options = grpo_step.parse(["--prompts", "3", "--group-size", "6"])
    sizes = {
        side.name: side.trl["micro_batch"]
        for side in grpo_step.chosen_sides(options, {"micro_batch": 16})
        if side.trl is not None
    }
    assert sizes == {"trl_default": 18, "trl_best": 9}


def test_bounds_take_the_larger_of_arithmetic_and_traffic() -> None:
    weights = Weights(layers=100_000_000, head=20_000_000, total=130_000_000)
    work = Work(2_000, 400, 64, trained_tokens=1_000, trained_prompt_tokens=200)
    found = bounds(Machine(tflops=2.0, gbs=25.0), weights, work)
    sampled = 2 * (100e6 * 2_400 + 20e6 * 2_000) / 2e12
    assert found["sample"].compute == pytest.approx(sampled)
    assert found["sample"].memory == pytest.approx(64 * 120e6 * 2 / 25e9)
    assert found["sample"].seconds == found["sample"].memory
    trained = (6 * 100e6 * 1_200 + 8 * 20e6 * 1_000) / 2e12
    assert found["forward_backward"].seconds == pytest.approx(trained)
    assert found["optimizer"].seconds == pytest.approx(30 * 130e6 / 25e9)


def test_the_padding_row_is_told_apart() -> None:
    theirs = {"embed": torch.ones(4, 3), "layer": torch.ones(5)}
    ours = {"embed": torch.ones(4, 3), "layer": torch.full((5,), 1.01)}
    ours["embed"][2] = 3.0
    found = compare(ours, theirs, 2)
    assert found["worst"] == "layer"
    assert found["max_gradient_error"] == pytest.approx(0.01, rel=1e-4)
    assert found["padding_row_error"] == pytest.approx(2.0)
    assert found["with_padding_row"] == pytest.approx(1.0)
    assert compare(ours, theirs, None)["worst"] == "embed"
    with pytest.raises(ValueError, match="layer"):
        compare({"embed": ours["embed"]}, theirs, 2)


def test_summaries_leave_the_warm_up_out() -> None:
    runs = [[record(9.0, step=1), record(1.0), record(3.0)], [record(8.0, step=1), record(2.0)]]
    found = summarise(runs, best_canary=1.0)
    assert (found.steps, found.seconds, found.warm_up) == (3, 2.0, 8.5)
    assert (found.fastest, found.slowest) == (1.0, 3.0)
    assert found.phases["rest"] == pytest.approx(0.5)
    assert (found.useful_sample, found.useful_train) == (0.5, 0.25)
    assert found.noisy == 0


def test_positions_that_were_not_seen_are_no_share() -> None:
    unseen = record(positions={"sample": 0, "train": 50})
    found = summarise([[unseen, unseen]], best_canary=1.0)
    assert (found.useful_sample, found.useful_train) == (None, None)


@pytest.mark.parametrize("change", [{"canary_ms": (1.0, 1.5)}, {"foreign": 0.5}])
def test_disturbed_steps_are_marked(change: dict[str, Any]) -> None:
    assert summarise([[record(), record(**change)]], best_canary=1.0).noisy == 1


def test_ratios_are_taken_within_each_repeat() -> None:
    ours = [[record(9.0), record(1.0)], [record(9.0), record(2.0)], [record(9.0), record(4.0)]]
    theirs = [[record(0.1), record(5.0)], [record(0.1), record(12.0)], [record(0.1), record(28.0)]]
    found = step_ratio(theirs, ours)
    assert (found.median, found.least, found.most) == (6.0, 5.0, 7.0)


def test_exponents_are_slopes_of_logarithms() -> None:
    summary = summarise([[record(), record()]], best_canary=1.0)
    rows = [step_scaling.Row(size, 1, 1.0, summary, 1.0) for size in (2, 4, 8)]
    assert step_scaling.exponent(rows, [3.0, 12.0, 48.0]) == pytest.approx(2.0)
    assert math.isnan(step_scaling.exponent(rows, [0.0, 1.0, 2.0]))
