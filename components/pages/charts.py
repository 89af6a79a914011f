"""Small line charts as SVG text; see `frame.py` for what they stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.pages.frame import (
    Point,
    axes_of,
    dots,
    frame,
    named_dot,
    path_of,
    short,
    svg,
)


def line_chart(points: Sequence[Point], *, title: str, x_label: str, markers: bool = False) -> str:
    """One quantity over training: faint as measured, firm as its moving average.

    With `markers` (few, exact measurements) the points themselves are joined, unsmoothed.
    """
    x_axis, y_axis = axes_of(points, zero_based_x=True)
    measured = path_of(points, x_axis, y_axis)
    if markers:
        marks = f'<path class="line" d="{measured}"/>' + dots(points, x_axis, y_axis)
    else:
        average = path_of(smoothed(points), x_axis, y_axis)
        marks = f'<path class="raw" d="{measured}"/><path class="line" d="{average}"/>'
    text = f"{title} over {x_label}: from {short(points[0][1])} to {short(points[-1][1])}"
    return svg(frame(x_axis, y_axis, x_label) + marks, text)


@dataclass(frozen=True)
class Line:
    """One of several lines in a chart."""

    style: str
    """Class of the style sheet: `line`, `other` or `plain`."""
    points: Sequence[Point]
    band: Sequence[tuple[float, float]] = ()
    """Ends of the interval at each point; none where empty."""


def lines_chart(
    lines: Sequence[Line],
    x_ticks: Mapping[float, str],
    *,
    description: str,
    x_label: str,
    y_form: Callable[[float], str] = short,
    mark: tuple[Point, str] | None = None,
) -> str:
    """Several quantities on one scale, with their own words on the x axis.

    The first line has a dot at each point; `mark` is a point of it that is told apart, and its
    name.
    """
    everywhere = [point for line in lines for point in line.points]
    ends = [
        (x, y)
        for line in lines
        for (x, _), both in zip(line.points, line.band, strict=False)
        for y in both
    ]
    x_axis, y_axis = axes_of(everywhere + ends, zero_based_x=False)
    marks = ""
    for line in lines:
        xs = [x for x, _ in line.points]
        if line.band:
            lows = list(zip(xs, (low for low, _ in line.band), strict=True))
            highs = list(zip(xs, (high for _, high in line.band), strict=True))
            outline = path_of([*lows, *reversed(highs)], x_axis, y_axis)
            marks += f'<path class="band" d="{outline}Z"/>'
    for line in reversed(lines):
        marks += f'<path class="{line.style}" d="{path_of(line.points, x_axis, y_axis)}"/>'
    marks += dots(lines[0].points, x_axis, y_axis)
    if mark:
        marks += named_dot(mark[0], "end", mark[1], x_axis, y_axis)
    return svg(frame(x_axis, y_axis, x_label, x_ticks, y_form) + marks, description)


def path_chart(points: Sequence[Point], *, title: str, x_label: str, y_label: str) -> str:
    """The way of two quantities through training, from an open dot to a full one."""
    x_axis, y_axis = axes_of(points, zero_based_x=False)
    marks = f'<path class="line" d="{path_of(points, x_axis, y_axis)}"/>'
    marks += dots(points[1:-1], x_axis, y_axis)
    marks += named_dot(points[0], "start", "start", x_axis, y_axis)
    marks += named_dot(points[-1], "end", "end", x_axis, y_axis)
    (x0, y0), (x1, y1) = points[0], points[-1]
    x_way, y_way = f"{short(x0)} to {short(x1)}", f"{short(y0)} to {short(y1)}"
    text = f"{title}: {x_label} from {x_way}, {y_label} from {y_way}"
    return svg(frame(x_axis, y_axis, x_label) + marks, text)


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
