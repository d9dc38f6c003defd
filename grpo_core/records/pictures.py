"""Which numbers of a run the report draws, and how."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from grpo_core.records.charts import Curve, Point, line_chart
from grpo_core.records.formats import axis_percent, compact, number, submap
from grpo_core.records.text import printable
from grpo_core.types import Json

_MOST_POINTS = 240
Line = Mapping[str, Json]


def pass_rate_chart(metrics: Sequence[Line], evaluations: Sequence[Line]) -> Markup:
    """Pass rate: training faintly, held-out evaluations with their intervals."""
    points: list[Point] = []
    bounds = []
    for line in evaluations:
        estimate, step = submap(line, "pass_at_1"), number(line.get("step"))
        mean, low, high = (number(estimate.get(key)) for key in ("mean", "low", "high"))
        if step is not None and mean is not None:
            points.append((step, mean))
            bounds.append((mean if low is None else low, mean if high is None else high))
    training = Curve(_points(metrics, "pass_rate"), "train", smooth=True, note="training pass rate")
    held_out = Curve(points, "main", bounds=bounds, note="held-out pass@1")
    return line_chart(
        [training, held_out],
        label="pass rate over training steps",
        form=axis_percent,
        y_range=(0.0, 1.0),
        width=980,
        height=280,
    )


def metric_charts(metrics: Sequence[Line]) -> list[tuple[str, str, Markup]]:
    """(title, last value, picture) of each curve there are numbers for."""
    share: tuple[float | None, float | None] = (0.0, 1.0)
    free: tuple[float | None, float | None] = (None, None)
    from_zero: tuple[float | None, float | None] = (0.0, None)
    wanted = [
        ("Reward", "reward_mean", compact, free),
        ("Pass rate", "pass_rate", axis_percent, share),
        ("Groups without signal", "zero_signal_share", axis_percent, share),
        ("Completion length, tokens", "completion_length_mean", compact, from_zero),
        ("Truncated", "truncated_share", axis_percent, share),
        ("Tokens per second", "tokens_per_second", compact, from_zero),
        ("Gradient norm", "grad_norm", compact, from_zero),
        ("Loss", "loss", compact, free),
        ("KL to the starting model", "kl", compact, from_zero),
        ("Clipped tokens", "clipped_share", axis_percent, from_zero),
        ("Sampler vs trainer, mean |Δ log p|", "sampler_logprob_gap", compact, from_zero),
    ]
    components = {key for line in metrics for key in line if key.startswith("component/")}
    wanted += [
        (f"Reward from {printable(key.partition('/')[2], 40)}", key, compact, free)
        for key in sorted(components)
    ]
    shadows = {key for line in metrics for key in line if key.endswith("/disagreement")}
    wanted += [
        (f"{printable(key.split('/')[1], 40)} disagrees", key, axis_percent, share)
        for key in sorted(shadows)
    ]
    charts = []
    for title, key, form, y_range in wanted:
        points = _points(metrics, key)
        if points:
            curve = Curve(points, smooth=True, note=title)
            picture = line_chart([curve], label=f"{title} by step", form=form, y_range=y_range)
            charts.append((title, form(points[-1][1]), picture))
    return charts


def _points(metrics: Sequence[Line], key: str) -> list[Point]:
    """(step, value) where both are numbers; long runs are thinned to means of neighbours."""
    points = [
        (step, value)
        for line in metrics
        if (step := number(line.get("step"))) is not None
        and (value := number(line.get(key))) is not None
    ]
    size = math.ceil(len(points) / _MOST_POINTS) or 1
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]
