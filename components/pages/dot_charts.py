"""Measured shares as dots with their intervals, as SVG text; see `frame.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.pages.frame import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    axes_of,
    frame,
    path_of,
    short_percent,
    svg,
)

LARGEST = 6.0
"""Radius of the dot that stands for most observations; the area of the others is in proportion."""
SMALLEST = 2.0


@dataclass(frozen=True)
class Dot:
    """A figure, its interval, and from how many observations it is."""

    x: float
    y: float
    low: float
    high: float
    count: int = 1


def dots_chart(
    found: Sequence[Dot],
    x_ticks: Mapping[float, str],
    *,
    description: str,
    x_label: str,
    y_form: Callable[[float], str] = short_percent,
    level: float | None = None,
) -> str:
    """Dots with intervals side by side; `level` is a dotted line to hold them against."""
    heights = [(dot.x, y) for dot in found for y in (dot.low, dot.high)]
    if level is not None:
        heights.append((found[0].x, level))
    _, y_axis = axes_of(heights, zero_based_x=False)
    # Half a step of room at either side: a dot belongs to a column, not to the frame's edge.
    x_axis = Axis(found[0].x - 0.5, found[-1].x + 0.5, LEFT, WIDTH - RIGHT)
    marks = ""
    if level is not None:
        marks += f'<path class="plain" d="M{LEFT} {y_axis.at(level):.1f}H{WIDTH - RIGHT}"/>'
    marks += "".join(_dot(dot, 4.0, x_axis, y_axis) for dot in found)
    return svg(frame(x_axis, y_axis, x_label, x_ticks, y_form) + marks, description)


def reliability_chart(found: Sequence[Dot], *, description: str, x_label: str) -> str:
    """Observed shares over predicted ones, and the diagonal on which an honest forecast lies.

    Both axes are [0, 1]; a dot's area is in proportion to its count.
    """
    x_axis, y_axis = Axis(0, 1, LEFT, WIDTH - RIGHT), Axis(0, 1, HEIGHT - BOTTOM, TOP)
    largest = max(dot.count for dot in found)
    marks = f'<path class="plain" d="{path_of([(0, 0), (1, 1)], x_axis, y_axis)}"/>'
    for dot in found:
        radius = max(SMALLEST, LARGEST * (dot.count / largest) ** 0.5)
        marks += _dot(dot, radius, x_axis, y_axis)
    ticks = {tick: short_percent(tick) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)}
    return svg(frame(x_axis, y_axis, x_label, ticks, short_percent) + marks, description)


def _dot(dot: Dot, radius: float, x_axis: Axis, y_axis: Axis) -> str:
    x, low, high = x_axis.at(dot.x), y_axis.at(dot.low), y_axis.at(dot.high)
    return (
        f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        f'<circle class="dot" cx="{x:.1f}" cy="{y_axis.at(dot.y):.1f}" r="{radius:.1f}"/>'
    )
