"""Alarms about a run's numbers: caught where planted, silent on healthy runs of any scale."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from grpo_core.training.health import Alarm, alarms, count_alarms
from grpo_core.training.health_rules import RULES

Line = dict[str, Any]

# Of the main job: SmolLM2-135M-Instruct learns to add, 35 steps, seed 0 (every line of it).
HEALTHY: Mapping[str, Sequence[float]] = {
    "grad_norm": (
        0.467, 0.762, 0.615, 1.31, 1.37, 1.82, 1.87, 1.84, 1.34, 1.61, 1.67, 1.58, 1.47, 1.51,
        2.12, 2.25, 1.97, 1.78, 1.98, 2.18, 2.47, 2.18, 2.05, 1.59, 1.63, 2.6, 1.56, 0.954, 1.1,
        1.16, 1.82, 1.37, 2.02, 1.58, 1.35,
    ),
    "entropy": (
        2.02, 1.9, 1.89, 1.64, 1.32, 1.05, 0.774, 0.488, 0.283, 0.186, 0.179, 0.0875, 0.0939,
        0.0437, 0.0746, 0.066, 0.0493, 0.037, 0.0473, 0.0405, 0.0936, 0.0932, 0.0591, 0.0704,
        0.0451, 0.0568, 0.0385, 0.0235, 0.0306, 0.035, 0.0409, 0.0289, 0.0576, 0.0331, 0.028,
    ),
    "pass_rate": (
        0.0234, 0.0703, 0.0547, 0.18, 0.211, 0.445, 0.258, 0.523, 0.531, 0.711, 0.539, 0.602,
        0.648, 0.539, 0.672, 0.562, 0.625, 0.867, 0.672, 0.586, 0.789, 0.672, 0.539, 0.82, 0.656,
        0.781, 0.773, 0.68, 0.789, 0.773, 0.75, 0.625, 0.508, 0.781, 0.742,
    ),
    "truncated_share": (
        0.648, 0.562, 0.578, 0.414, 0.43, 0.234, 0.227, 0.117, 0.0469, 0.0547, 0.0312, 0.0156,
        *[0.0] * 23,
    ),
    "sampler_logprob_gap": (
        0.0401, 0.0388, 0.044, 0.0387, 0.0322, 0.0246, 0.0242, 0.0143, 0.0104, 0.00544, 0.0149,
        0.01, 0.00716, 0.00623, 0.0088, 0.012, 0.00661, 0.00531, 0.00526, 0.00722, 0.0063, 0.00958,
        0.00855, 0.00976, 0.00899, 0.00758, 0.00992, 0.00689, 0.00321, 0.0054, 0.00763, 0.00925,
        0.0105, 0.00341, 0.00375,
    ),
}  # fmt: skip
KEYS = (*HEALTHY, "kl", "zero_signal_share", "clipped_share")
ORDINARY = {
    "grad_norm": 1.0,
    "entropy": 1.0,
    "pass_rate": 0.3,
    "truncated_share": 0.1,
    "sampler_logprob_gap": 0.01,
    "kl": 0.05,
    "zero_signal_share": 0.4,
    "clipped_share": 0.01,
}


def healthy() -> list[Line]:
    return [{"step": n + 1, **{k: v[n] for k, v in HEALTHY.items()}} for n in range(35)]


def run(steps: int, **changes: Mapping[int, float]) -> list[Line]:
    """An even run; a change is a mapping of the first step to the value from there on."""
    lines: list[Line] = []
    for step in range(1, steps + 1):
        line: Line = {"step": step, **ORDINARY}
        for key, values in changes.items():
            reached = [at for at in values if at <= step]
            if reached:
                line[key] = values[max(reached)]
        lines.append(line)
    return lines


def replay(history: Sequence[Line]) -> list[Alarm]:
    """What was raised step by step."""
    return [alarm for end in range(1, len(history) + 1) for alarm in alarms(history[:end])]


def raised(history: Sequence[Line]) -> list[tuple[str, int]]:
    return [(alarm.name, alarm.step) for alarm in replay(history)]


VALUES = st.one_of(
    st.none(),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, True, "1.0"]),
    st.floats(0, 1),
    st.floats(0, 1e12),
)
HISTORIES = st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, VALUES)), max_size=25)


# What is healthy


def test_a_healthy_run_raises_none() -> None:
    assert raised(healthy()) == []
    assert raised(run(60)) == []


def test_no_history_raises_none() -> None:
    assert alarms([]) == [] and alarms([{}]) == []


@given(st.fixed_dictionaries(dict.fromkeys(KEYS, st.floats(0, 1e6))), st.integers(1, 40))
def test_a_constant_history_raises_no_alarm_of_change(line: Line, steps: int) -> None:
    """Only what is bad from the start can be one: no signal, all cut off, all clipped."""
    names = {name for name, _ in raised([line] * steps)}
    assert names <= {"no_signal", "truncation", "clipping"}
    calm = {**line, "zero_signal_share": 0.5, "truncated_share": 0.1, "clipped_share": 0.1}
    assert raised([calm] * steps) == []


@given(st.integers(0, 1000), st.integers(20, 60))
def test_norms_that_scatter_by_nature_raise_none(seed: int, steps: int) -> None:
    """A factor of 2 up and down is what a step's few groups with signal make."""
    rng = random.Random(seed)
    lines = [{"grad_norm": math.exp(rng.uniform(-0.7, 0.7))} for _ in range(steps)]
    assert raised(lines) == []


# What any history must obey


@given(HISTORIES)
def test_odd_values_neither_crash_nor_count(history: list[Line]) -> None:
    for alarm in replay(history):
        assert math.isfinite(alarm.value) and math.isfinite(alarm.threshold)
        assert alarm.name in RULES and alarm.message.endswith(".")


@given(HISTORIES)
def test_what_is_not_finite_is_as_good_as_missing(history: list[Line]) -> None:
    def without(line: Line) -> Line:
        return {
            k: v for k, v in line.items()
            if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)
        }  # fmt: skip

    assert replay(history) == replay([without(line) for line in history])


@given(st.sampled_from([math.nan, None, math.inf]), st.integers(1, 40))
def test_a_run_without_numbers_raises_none(value: Any, steps: int) -> None:
    assert raised([dict.fromkeys(KEYS, value)] * steps) == []


@given(HISTORIES, HISTORIES)
def test_alarms_never_look_at_the_future(past: list[Line], future: list[Line]) -> None:
    numbered = [{"step": at, **line} for at, line in enumerate([*past, *future], start=1)]
    early = [alarm for alarm in replay(numbered) if alarm.step <= len(past)]
    assert early == replay(numbered[: len(past)])


@given(HISTORIES)
def test_a_resumed_run_sees_the_same(history: list[Line]) -> None:
    """metrics.jsonl stores NaN as null."""
    stored = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        for line in history
    ]
    assert replay(json.loads(json.dumps(stored))) == replay(history)


# Explosion of the gradient norm

NORMS = st.lists(st.floats(1e-3, 1e3), min_size=9, max_size=40)


@given(NORMS, st.integers(-60, 60))
def test_the_gradient_rule_does_not_depend_on_scale(norms: list[float], exponent: int) -> None:
    """Powers of two scale without rounding."""
    scale = 2.0**exponent
    first = raised([{"grad_norm": norm} for norm in norms])
    assert raised([{"grad_norm": norm * scale} for norm in norms]) == first


@given(st.integers(0, 1000), st.integers(8, 60), st.floats(50, 1e6))
def test_a_planted_explosion_is_caught(seed: int, before: int, factor: float) -> None:
    rng = random.Random(seed)
    norms = [math.exp(rng.uniform(-0.3, 0.3)) for _ in range(before)]
    lines = [{"grad_norm": norm} for norm in [*norms, factor]]
    (alarm,) = replay(lines)
    assert (alarm.name, alarm.step, alarm.value) == ("gradient_explosion", before + 1, factor)
    assert alarm.value > alarm.threshold > max(norms)


@given(st.lists(st.floats(0.5, 2), min_size=8, max_size=30), st.integers(0, 29))
def test_steps_without_gradient_or_number_do_not_hide_it(norms: list[float], at: int) -> None:
    assume(at <= len(norms))
    for nothing in (0.0, math.nan, None):
        gapped = [*norms[:at], *[nothing] * 10, *norms[at:], 1000.0]
        names = raised([{"grad_norm": norm} for norm in gapped])
        assert names == [("gradient_explosion", len(gapped))]


def test_an_explosion_that_lasts_is_raised_once() -> None:
    assert raised(run(40, grad_norm={20: 100.0})) == [("gradient_explosion", 20)]


def test_a_second_explosion_is_raised_anew() -> None:
    spikes = {20: 100.0, 21: 1.0, 22: 100.0, 23: 1.0, 35: 100.0, 36: 1.0}
    names = raised(run(40, grad_norm=spikes))
    assert names == [("gradient_explosion", 20), ("gradient_explosion", 35)]


def test_too_little_history_tells_nothing() -> None:
    assert raised(run(8, grad_norm={8: 1e6})) == []
    assert raised(run(9, grad_norm={9: 1e6})) == [("gradient_explosion", 9)]


# The other rules, each planted


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"entropy": {20: 0.05}}, ("entropy_collapse", 24)),
        ({"zero_signal_share": {20: 1.0}}, ("no_signal", 29)),
        ({"sampler_logprob_gap": {20: 0.3}}, ("sampler_gap", 24)),
        ({"kl": {20: 3.0}}, ("kl_blow_up", 22)),
        ({"truncated_share": {20: 0.6}}, ("truncation", 29)),
        ({"truncated_share": {1: 1.0}}, ("truncation", 10)),
        ({"clipped_share": {20: 0.8}}, ("clipping", 24)),
        ({"pass_rate": {20: 0.0}}, ("pass_rate_collapse", 26)),
    ],
)
def test_a_planted_fault_is_raised_once_where_it_begins(
    changes: dict[str, dict[int, float]], expected: tuple[str, int]
) -> None:
    assert raised(run(45, **changes)) == [expected]


@pytest.mark.parametrize(
    "changes",
    [
        # The answer is known: short ones need no entropy.
        {"entropy": {20: 0.02}, "pass_rate": {18: 0.8}},
        {"entropy": {20: 0.02, 23: 1.0}},  # for three steps
        {"zero_signal_share": {20: 1.0, 29: 0.9}},
        {"sampler_logprob_gap": {20: 0.09}},  # rounding's size
        {"kl": {20: 0.9}},
        {"kl": {20: 50.0, 21: 0.05}},  # one odd token
        {"truncated_share": {1: 0.7}},  # as from the start, and it gets no worse
        {"truncated_share": {1: 1.0}, "pass_rate": {1: 0.9}},  # answers come early
        {"pass_rate": {1: 0.9, 20: 0.45}},  # harder prompts
        {"pass_rate": {1: 0.05, 20: 0.0}},  # it never could
    ],
)
def test_what_looks_alike_and_is_none(changes: dict[str, dict[int, float]]) -> None:
    assert raised(run(45, **changes)) == []


def test_a_step_with_signal_after_many_with_the_kl_alone_is_none() -> None:
    """Norms of a run with grpo.beta whose prompts were too hard; a group got lucky at the end."""
    norms = [0.17, 0.0099, 0.0044, 0.0023, 0.0018, 0.0011, 0.0013, 0.001, 0.00097, 0.00082, 0.0329]
    signs = [0.875, *[1.0] * 9, 0.875]
    lines = [{"grad_norm": n, "zero_signal_share": s} for n, s in zip(norms, signs, strict=True)]
    assert raised(lines) == []
    kl_explodes = [*lines[:-1], {"grad_norm": 0.5, "zero_signal_share": 1.0}]
    assert ("gradient_explosion", 11) in raised(kl_explodes)


def test_what_wavers_about_its_bound_is_raised_once() -> None:
    lines = run(200)
    for line in lines:
        line["truncated_share"] = 0.9 if line["step"] % 17 == 0 else 0.97
    assert raised(lines) == [("truncation", 10)]


def test_what_comes_back_after_long_is_raised_anew() -> None:
    lines = run(150, truncated_share={20: 0.9, 40: 0.1, 110: 0.9})
    assert raised(lines) == [("truncation", 29), ("truncation", 119)]


def test_low_entropy_is_none_while_the_pass_rate_rises() -> None:
    lines = run(45, entropy={20: 0.02})
    for line in lines:
        line["pass_rate"] = 0.01 * line["step"]
    assert raised(lines) == []


def test_no_signal_says_whether_it_is_success_or_failure() -> None:
    for rate, words in ((1.0, "solved"), (0.0, "too hard"), (None, "nothing could be judged")):
        (alarm,) = replay(run(12, zero_signal_share={1: 1.0}, pass_rate={1: rate}))  # type: ignore
        assert words in alarm.message


def test_counts_for_the_summary() -> None:
    lines = [{"name": "no_signal"}, {"name": "clipping"}, {"name": "no_signal"}]
    assert count_alarms(lines) == {"no_signal": 2, "clipping": 1}
    assert count_alarms([]) == {}
