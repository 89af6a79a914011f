"""The frame of a chart: axes with round ticks, and the marks that every chart is made of.

Written by hand rather than by a plotting library: the marks take their colours from the page's
style sheet, so that one chart serves light and dark, and equal numbers always give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from components.pages.numbers import NBSP

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 36
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A range of data laid out on pixels, with round numbers to label it."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values inside the range."""
        return nice_ticks(self.low, self.high)


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], near `about` of them."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """A number as an axis shows it: three digits at most, thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def short_percent(share: float) -> str:
    """A share as an axis shows it."""
    return f"{short(100 * share)}{NBSP}%"


def axes_of(points: Sequence[Point], *, zero_based_x: bool) -> tuple[Axis, Axis]:
    """Axes on which every point has its place."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = _padded(min(xs), max(xs), 0.0 if zero_based_x else 0.08)
    y_low, y_high = _padded(min(ys), max(ys), 0.08)
    if zero_based_x:
        x_low = min(0.0, x_low)
    return Axis(x_low, x_high, LEFT, WIDTH - RIGHT), Axis(y_low, y_high, HEIGHT - BOTTOM, TOP)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """Room around the data; a quantity that never changes still gets a range."""
    span = high - low
    if span <= 1e-12 * max(abs(low), abs(high), 1e-12):
        margin = abs(low) * 0.5 or 1.0
        return low - margin, high + margin
    return low - span * share, high + span * share


def frame(
    x_axis: Axis,
    y_axis: Axis,
    x_label: str,
    x_ticks: Mapping[float, str] | None = None,
    y_form: Callable[[float], str] = short,
) -> str:
    """Rules, numbers and the name of the x axis; the y axis is named by the chart's caption."""
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        style = "zero" if tick == 0 else "rule"
        parts.append(
            f'<path class="{style}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{y_form(tick)}</text>'
        )
    for tick, words in (x_ticks or {tick: short(tick) for tick in x_axis.ticks}).items():
        x = x_axis.at(tick)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{escape(words)}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    return "".join(parts)


def path_of(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    """The way through all points, as the `d` of a path."""
    return "M" + "L".join(f"{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for x, y in points)


def dots(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    """A small dot at each point."""
    return "".join(
        f'<circle class="dot" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.5"/>'
        for x, y in points
    )


def named_dot(point: Point, style: str, name: str, x_axis: Axis, y_axis: Axis) -> str:
    """A large dot with its name, which stands inside the frame whichever side the dot lies on."""
    left, top = x_axis.at(point[0]), y_axis.at(point[1])
    before = left > (LEFT + WIDTH - RIGHT) / 2
    shift, anchor = (-9, "end") if before else (9, "start")
    above = top - 8 if top > TOP + 20 else top + 18
    place = f'x="{left + shift:.1f}" y="{above:.1f}" text-anchor="{anchor}"'
    return (
        f'<circle class="{style}" cx="{left:.1f}" cy="{top:.1f}" r="5"/>'
        f'<text class="mark" {place}>{escape(name)}</text>'
    )


def svg(content: str, description: str) -> str:
    """The chart; `description` is what a screen reader says of it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{content}</svg>"
    )
