"""Small line charts as SVG text.

Written by hand rather than by a plotting library: the marks take their colours from the page's
style sheet, so that one chart serves light and dark, and equal numbers always give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

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


def line_chart(points: Sequence[Point], *, title: str, x_label: str, markers: bool = False) -> str:
    """One quantity over training: faint as measured, firm as its moving average.

    With `markers` (few, exact measurements) the points themselves are joined, unsmoothed.
    """
    x_axis, y_axis = _axes(points, zero_based_x=True)
    measured = _path(points, x_axis, y_axis)
    if markers:
        marks = f'<path class="line" d="{measured}"/>' + _dots(points, x_axis, y_axis)
    else:
        average = _path(smoothed(points), x_axis, y_axis)
        marks = f'<path class="raw" d="{measured}"/><path class="line" d="{average}"/>'
    text = f"{title} over {x_label}: from {short(points[0][1])} to {short(points[-1][1])}"
    return _svg(_frame(x_axis, y_axis, x_label) + marks, text)


@dataclass(frozen=True)
class Line:
    """One of several lines in a chart."""

    style: str
    """Class of the style sheet: `line`, `other` or `plain`."""
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    """Ends of the interval at each point; none where empty."""


def lines_chart(
    lines: Sequence[Line], x_ticks: Mapping[float, str], *, description: str, x_label: str
) -> str:
    """Several quantities on one scale, with their own words on the x axis."""
    everywhere = [point for line in lines for point in line.points]
    ends = [
        (x, y)
        for line in lines
        for (x, _), both in zip(line.points, line.band, strict=False)
        for y in both
    ]
    x_axis, y_axis = _axes(everywhere + ends, zero_based_x=False)
    marks = ""
    for line in lines:
        xs = [x for x, _ in line.points]
        if line.band:
            lows = list(zip(xs, (low for low, _ in line.band), strict=True))
            highs = list(zip(xs, (high for _, high in line.band), strict=True))
            outline = _path([*lows, *reversed(highs)], x_axis, y_axis)
            marks += f'<path class="band" d="{outline}Z"/>'
    for line in reversed(lines):
        marks += f'<path class="{line.style}" d="{_path(line.points, x_axis, y_axis)}"/>'
    marks += _dots(lines[0].points, x_axis, y_axis)
    return _svg(_frame(x_axis, y_axis, x_label, x_ticks) + marks, description)


def path_chart(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """The way of two quantities through training, from an open dot to a full one."""
    x_axis, y_axis = _axes(points, zero_based_x=False)
    marks = f'<path class="line" d="{_path(points, x_axis, y_axis)}"/>'
    marks += _dots(points[1:-1], x_axis, y_axis)
    for (x, y), style, name in ((points[0], "start", "start"), (points[-1], "end", "end")):
        left, top = x_axis.at(x), y_axis.at(y)
        marks += f'<circle class="{style}" cx="{left:.1f}" cy="{top:.1f}" r="5"/>'
        # A label stands inside the frame, whichever side its dot lies on.
        before = left > (LEFT + WIDTH - RIGHT) / 2
        shift, anchor = (-9, "end") if before else (9, "start")
        above = top - 8 if top > TOP + 20 else top + 18
        place = f'x="{left + shift:.1f}" y="{above:.1f}" text-anchor="{anchor}"'
        marks += f'<text class="mark" {place}>{name}</text>'
    (x0, y0), (x1, y1) = points[0], points[-1]
    x_way, y_way = f"{short(x0)} to {short(x1)}", f"{short(y0)} to {short(y1)}"
    text = f"{title}: {x_label} from {x_way}, {y_label} from {y_way}"
    return _svg(_frame(x_axis, y_axis, x_label) + marks, text)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A centred moving average over about a tenth of the points, narrower at the ends."""
    reach = len(points) // 20
    result = []
    for index, (x, _) in enumerate(points):
        # The window shrinks alike on both sides, so that it never leans.
        near = min(reach, index, len(points) - 1 - index)
        window = [y for _, y in points[index - near : index + near + 1]]
        result.append((x, sum(window) / len(window)))
    return result


def short(value: float) -> str:
    """A number as an axis shows it: three digits at most, thousands as k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:.0f}k"
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    mantissa, exponent = f"{value:.0e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _axes(points: Sequence[Point], *, zero_based_x: bool) -> tuple[Axis, Axis]:
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


def _frame(
    x_axis: Axis, y_axis: Axis, x_label: str, x_ticks: Mapping[float, str] | None = None
) -> str:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        style = "zero" if tick == 0 else "rule"
        parts.append(
            f'<path class="{style}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
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


def _path(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    return "M" + "L".join(f"{x_axis.at(x):.1f} {y_axis.at(y):.1f}" for x, y in points)


def _dots(points: Sequence[Point], x_axis: Axis, y_axis: Axis) -> str:
    return "".join(
        f'<circle class="dot" cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.5"/>'
        for x, y in points
    )


def _svg(content: str, description: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{content}</svg>"
    )
