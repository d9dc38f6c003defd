"""Charts as inline SVG: a pure function from numbers to markup, coloured by the page's CSS.

No scripts, no fonts, no network. Points carry `<title>` elements, which browsers show on hover.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Point = tuple[float, float]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 12.0, 24.0
_SMOOTHING_FROM = 12  # shorter curves are drawn as they are


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart.

    Attributes:
        points: (step, value), ascending by step.
        kind: CSS class, which gives the colour.
        smooth: draw a trailing mean over the raw line.
        bounds: (low, high) of each point, drawn as error bars and a band; or empty.
        note: what the points are called when pointed at.
    """

    points: Sequence[Point]
    kind: str = "main"
    smooth: bool = False
    bounds: Sequence[tuple[float, float]] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Frame:
    """Maps data to the drawing."""

    width: float
    height: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.height - _BOTTOM - share * (self.height - _TOP - _BOTTOM)


def line_chart(
    curves: Sequence[Curve],
    *,
    label: str,
    form: Callable[[float], str] = "{:g}".format,
    y_range: tuple[float | None, float | None] = (None, None),
    width: float = 360.0,
    height: float = 170.0,
) -> Markup:
    """Draw curves over steps.

    Args:
        curves: later ones are drawn on top; empty ones are skipped.
        label: for screen readers.
        form: how values are written on the axis and beside points.
        y_range: ends of the axis; None: from the data.
        width: in user units; the picture scales with the page.
        height: in user units.

    Returns: an `<svg>` element; empty when there is nothing to draw.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Markup("")
    frame, ticks = _frame(curves, y_range, width, height)
    parts = [_axes(frame, ticks, form), *(_curve(curve, frame, form) for curve in curves)]
    return Markup(
        '<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, label, Markup("").join(parts))


def trailing_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the `window - 1` before it."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means


def ticks_between(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that cover [low, high], about `count` of them."""
    if not high > low:
        pad = abs(low) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _frame(
    curves: Sequence[Curve],
    y_range: tuple[float | None, float | None],
    width: float,
    height: float,
) -> tuple[_Frame, list[float]]:
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    ys += [value for curve in curves for pair in curve.bounds for value in pair]
    ys += [value for value in y_range if value is not None]
    ticks = ticks_between(min(ys), max(ys))
    low, high = y_range
    ticks = [t for t in ticks if (low is None or t >= low) and (high is None or t <= high)]
    x_low, x_high = min(xs), max(xs)
    if x_high == x_low:
        x_low, x_high = x_low - 1, x_high + 1
    return _Frame(width, height, x_low, x_high, ticks[0], ticks[-1]), ticks


def _axes(frame: _Frame, ticks: Sequence[float], form: Callable[[float], str]) -> Markup:
    line = Markup('<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    parts = []
    for value in ticks:
        y = frame.y(value)
        parts.append(line.format(_LEFT, frame.width - _RIGHT, y, y))
        parts.append(text.format(_LEFT - 7, y + 3.5, "end", form(value)))
    steps = [t for t in ticks_between(frame.x_low, frame.x_high, 5) if t == int(t)]
    for value in steps:
        if frame.x_low <= value <= frame.x_high:
            parts.append(text.format(frame.x(value), frame.height - 7, "middle", f"{value:g}"))
    return Markup("").join(parts)


def _curve(curve: Curve, frame: _Frame, form: Callable[[float], str]) -> Markup:
    parts = []
    smoothed = curve.smooth and len(curve.points) >= _SMOOTHING_FROM
    if curve.bounds:
        parts.append(_bounds(curve, frame))
    parts.append(_path(curve.points, frame, f"{curve.kind} raw" if smoothed else curve.kind))
    if smoothed:
        means = trailing_mean([y for _, y in curve.points], max(3, len(curve.points) // 10))
        points = [(x, mean) for (x, _), mean in zip(curve.points, means, strict=True)]
        parts.append(_path(points, frame, curve.kind))
    parts.extend(_dot(curve, position, frame, form) for position in range(len(curve.points)))
    return Markup("").join(parts)


def _path(points: Sequence[Point], frame: _Frame, kind: str) -> Markup:
    coordinates = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return Markup('<polyline class="line {}" points="{}"/>').format(kind, coordinates)


def _bounds(curve: Curve, frame: _Frame) -> Markup:
    """A band through all intervals, and a bar with caps at each."""
    pairs = list(zip(curve.points, curve.bounds, strict=True))
    upper = [f"{frame.x(x):.1f},{frame.y(high):.1f}" for (x, _), (_, high) in pairs]
    lower = [f"{frame.x(x):.1f},{frame.y(low):.1f}" for (x, _), (low, _) in reversed(pairs)]
    band = Markup('<polygon class="band {}" points="{}"/>').format(
        curve.kind, " ".join(upper + lower)
    )
    bar = Markup('<path class="bar {}" d="M{:.1f} {:.1f}h8m-4 0V{:.1f}m-4 0h8"/>')
    bars = [
        bar.format(curve.kind, frame.x(x) - 4, frame.y(low), frame.y(high))
        for (x, _), (low, high) in pairs
    ]
    return band + Markup("").join(bars)


def _dot(curve: Curve, position: int, frame: _Frame, form: Callable[[float], str]) -> Markup:
    """A point: visible on curves with intervals, elsewhere only a place to point at."""
    x, y = curve.points[position]
    title = f"step {x:g}: {form(y)}"
    if curve.note:
        title = f"{curve.note}, {title}"
    if curve.bounds:
        low, high = curve.bounds[position]
        title += f" (95% interval {form(low)} to {form(high)})"
    kind = "dot" if curve.bounds or len(curve.points) == 1 else "dot hidden"
    radius = 3.5 if curve.bounds else 3
    return Markup(
        '<circle class="{} {}" cx="{:.1f}" cy="{:.1f}" r="{:g}"><title>{}</title></circle>'
    ).format(kind, curve.kind, frame.x(x), frame.y(y), radius, title)
