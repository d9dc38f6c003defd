"""The report page, from whole runs and from what interrupted ones leave behind."""

from __future__ import annotations

import math
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grpo_core.records.charts import Curve, line_chart, ticks_between, trailing_mean
from grpo_core.records.formats import axis_percent, compact, duration, interval, percent
from grpo_core.records.report import render_report, write_report
from grpo_core.records.run_directory import RunDirectory
from grpo_core.types import Completion, Prompt, Rollout, RolloutGroup, Verdict

HOSTILE = (
    "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \x1b[31m \u202etxt"
)


def metrics_line(step: int, rng: random.Random, steps: int = 40) -> dict[str, float]:
    share = 0.9 / (1 + math.exp(-(step - steps / 3) / (steps / 10)))
    rate = min(1.0, max(0.0, share + rng.gauss(0, 0.05)))
    return {
        "step": step,
        "seconds": 12.0 + rng.random(),
        "seconds_sample": 6.5,
        "seconds_verify": 0.4,
        "seconds_train": 4.8,
        "reward_mean": rate,
        "pass_rate": rate,
        "zero_signal_share": abs(rng.gauss(0.3, 0.1)),
        "truncated_share": 0.1,
        "completion_length_mean": 22 - 8 * rate + rng.random(),
        "status_correct": round(64 * rate),
        "status_wrong": 60 - round(60 * rate),
        "status_unparseable": 4,
        "status_abstain": 0,
        "status_timeout": 0,
        "status_error": int(step == 7),
        "loss": rng.gauss(0, 0.02),
        "grad_norm": 1.5 + rng.random(),
        "clipped_share": 0.01 * rng.random(),
        "sampler_logprob_gap": 0.004,
        "tokens": 1400,
        "tokens_per_second": 200 + rng.gauss(0, 9),
    }


def evaluation(step: int, mean: float, num_prompts: int = 128) -> dict[str, object]:
    def estimate(value: float) -> dict[str, float]:
        return {"mean": value, "low": max(0, value - 0.04), "high": min(1, value + 0.04)}

    return {
        "step": step,
        "task": "arithmetic",
        "split": "test",
        "num_prompts": num_prompts,
        "num_samples": 4,
        "temperature": 1.0,
        "pass_at_1": estimate(mean),
        "pass_at_k": {str(k): estimate(1 - (1 - mean) ** k) for k in (1, 2, 4)},
        "statuses": {"correct": round(512 * mean), "wrong": 480 - round(480 * mean)},
        "truncated_share": 0.05,
        "completion_length_mean": 17.0,
        "seconds": 30.0,
        "by_level": {"2": {"pass_at_1": estimate(mean)}},
    }


def group(name: str, text: str, verdict: Verdict) -> RolloutGroup:
    prompt = Prompt(name, [{"role": "user", "content": f"What is {name}?"}], "97")
    completion = Completion([1, 2], text, [-0.5, -0.25], "eos")
    return RolloutGroup(prompt, [5, 6], [Rollout(completion, {"math": verdict}, {}, 1.0)])


def fake_run(folder: Path, steps: int = 40) -> RunDirectory:
    """A whole run, hostile completions included."""
    rng = random.Random(0)
    run = RunDirectory.create("run", folder)
    run.write_config(
        {
            "seed": 0,
            "model": {"path": "HuggingFaceTB/SmolLM2-135M-Instruct"},
            "task": {"name": "arithmetic", "options": {"level": 2}},
            "grpo": {"group_size": 8, "prompts_per_step": 8, "loss": "grpo", "advantage": "std"},
            "trainer": {"steps": steps, "learning_rate": 1e-5},
            "sampling": {"temperature": 1.0, "max_new_tokens": 24},
            "verifiers": [{"name": "judge", "options": {"api_key": "hf_abcdefghijklmnopqrst"}}],
        }
    )
    run.write_manifest(
        {
            "grpo_core": "0.1.0",
            "started": "2026-11-02T14:16:39+0000",
            "command": ["grpo", "train"],
            "packages": {"torch": "2.13.0"},
            "plugins": [
                {"name": "grpo_verifiers", "origin": "grpo-core 0.1.0", "source_hash": "ab" * 32}
            ],
            "verifiers": [{"name": "math", "version": "1.2"}],
            "hardware": {"cpu": "Some CPU", "cores": 2, "memory_mb": 24576, "gpus": []},
            "git": {"commit": "0" * 40, "dirty": True},
        }
    )
    for step in range(1, steps + 1):
        run.append_metrics(metrics_line(step, rng, steps))
    wrong = Verdict.wrong("82 is not 97", {"parsed": "82"})
    before = [group(f"{a} + 26", f"It is 82, {HOSTILE}", wrong) for a in range(9)]
    after = [group(f"{a} + 26", "97", Verdict.correct("97 = 97")) for a in range(8)]
    run.write_evaluation(0, evaluation(0, 0.023), before)
    for step in range(10, steps, 10):
        run.write_evaluation(step, evaluation(step, step / steps * 0.8, 32))
    run.write_evaluation(steps, evaluation(steps, 0.81), [*after, group("8 + 26", "82", wrong)])
    run.write_summary(
        {
            "status": "finished",
            "error": None,
            "model": "SmolLM2",
            "steps": steps,
            "seconds": 581.0,
            "tokens": 56000,
            "pass_at_1_before": evaluation(0, 0.023)["pass_at_1"],
            "pass_at_1_after": evaluation(0, 0.81)["pass_at_1"],
        }
    )
    return run


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        assert not any(key.startswith("on") for key, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(fake_run(tmp_path_factory.mktemp("report"))).read_text()


def test_page_is_well_formed_and_needs_no_network(page: str) -> None:
    reader = read(page)
    assert reader.links == []
    assert "script" not in reader.tags and "img" not in reader.tags
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_hostile_completions_are_shown_as_text(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page  # not evaluated: templates come from us, values do not
    assert "\x1b" not in page and "\u202e" not in page


def test_page_shows_result_curves_examples_and_plugins(page: str) -> None:
    for expected in (
        "2.3%", "81.0%", "95% interval 0.0% to 6.3%", "pass@4", "Groups without signal",
        "Where the time went", "8 learned, 1 wrong both times", "grpo_verifiers", "abababababab",
        "level 2", "9 min 41 s", "Some CPU", "uncommitted changes", "1 verdict is &#39;error",
    ):  # fmt: skip
        assert expected in page, expected
    assert "KL to the starting model" not in page


def test_secrets_of_the_config_are_left_out(page: str) -> None:
    assert "hf_abcdefghijklmnopqrst" not in page
    assert "[redacted]" in page


def test_charts_are_xml_and_labelled(page: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(charts) >= 9
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("aria-label")
        for circle in root.iter("circle"):
            assert -1 <= float(circle.get("cx", "nan")) <= 981


def test_run_with_nothing_but_a_config(tmp_path: Path) -> None:
    run = RunDirectory.create("run", tmp_path)
    run.write_config({})
    page = render_report(run)
    read(page)
    assert "No held-out evaluation yet" in page and "no summary" in page


def test_interrupted_run(tmp_path: Path) -> None:
    run = RunDirectory.create("run", tmp_path)
    run.write_config({"trainer": {"steps": 50}})
    run.append_metrics({"step": 1, "reward_mean": 0.5, "loss": math.nan})
    run.write_evaluation(0, evaluation(0, 0.1))
    run.write_evaluation(1, evaluation(1, 0.2, num_prompts=32))
    run.write_summary({"status": "interrupted", "pass_at_1_after": None})
    page = render_report(run)
    read(page)
    assert "1 of 50" in page and "The run was interrupted" in page
    assert "no finite loss" in page
    assert "pass@1 after" not in page  # fewer prompts are no fair "after"


def test_damaged_values_do_not_break_the_page(tmp_path: Path) -> None:
    run = RunDirectory.create("run", tmp_path)
    run.write_config({"model": "<b>", "grpo": None, "task": {"options": [1]}})
    run.append_metrics({"step": "one", "reward_mean": HOSTILE, "loss": 1e308, "seconds": "x"})
    run.append_metrics({"step": 2, "reward_mean": 0.5, "loss": -1e308, "seconds": True})
    run.write_manifest({"plugins": [1, {"name": HOSTILE}], "hardware": [], "git": "x"})
    run.write_summary({"status": HOSTILE, "error": HOSTILE, "seconds": -4, "pass_at_1_before": 3})
    run.write_evaluation(0, {"step": "x", "pass_at_1": "y"})
    read(render_report(run))


def test_overlapping_intervals_are_said(tmp_path: Path) -> None:
    run = RunDirectory.create("run", tmp_path)
    run.write_config({})
    run.write_evaluation(0, evaluation(0, 0.50))
    run.write_evaluation(9, evaluation(9, 0.52))
    assert "intervals before and after overlap" in render_report(run)


@pytest.mark.parametrize("low, high", [(0, 1), (0.2, 0.21), (-5, 1200), (3, 3), (0, 0), (0, 1e14)])
def test_ticks_cover_the_range(low: float, high: float) -> None:
    ticks = ticks_between(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)


def test_trailing_mean() -> None:
    assert trailing_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]


def test_chart_of_nothing_is_empty_and_of_one_point_is_a_dot() -> None:
    assert line_chart([Curve([])], label="x") == ""
    assert line_chart([Curve([(3, 0.5)])], label="x").count("<circle") == 1


def test_chart_escapes_its_labels() -> None:
    svg = line_chart([Curve([(1, 2)], note="<&>")], label='"<x>')
    ElementTree.fromstring(svg)
    assert "<x>" not in svg


@pytest.mark.parametrize(
    "value, expected",
    [(0.1234, "12.3%"), (1, "100.0%"), (None, "–"), (math.nan, "–"), ("x", "–"), (True, "–")],
)
def test_percent(value: object, expected: str) -> None:
    assert percent(value) == expected


def test_other_formats() -> None:
    assert axis_percent(0.5) == "50%" and axis_percent(0.125) == "12.5%"
    assert [compact(v) for v in (0.03123, 1.25, 214.2, 12345.0)] == [
        "0.0312",
        "1.25",
        "214",
        "12,345",
    ]
    assert [duration(v) for v in (0.41, 59, 581, 7500)] == [
        "0.4 s", "59 s", "9 min 41 s", "2 h 05 min",
    ]  # fmt: skip
    assert interval({"low": 0.1, "high": 0.2}) == "10.0% to 20.0%"
    assert interval({"low": 0.1}) == interval(3) == ""
