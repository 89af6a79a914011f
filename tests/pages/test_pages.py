"""Charts, numbers and pictures of all pages: exact where one of them could mislead."""

from __future__ import annotations

import base64
import xml.etree.ElementTree as ElementTree
from io import BytesIO
from pathlib import Path

import jinja2
import pytest
import torch
from PIL import Image

from components.pages.charts import Line, line_chart, lines_chart, path_chart, smoothed
from components.pages.dot_charts import Dot, dots_chart, reliability_chart
from components.pages.frame import nice_ticks, short, short_percent
from components.pages.numbers import (
    count,
    flattened,
    listed,
    percent,
    percent_interval,
    points,
    points_interval,
    signed,
)
from components.pages.page import data_uri, render_page


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.5, 1]),
        (0.43, 0.61, [0.45, 0.5, 0.55, 0.6]),
        (-1.2, 3.4, [0, 2]),
        (0, 7680, [0, 2000, 4000, 6000]),
        (0, 2.3e-4, [0, 1e-4, 2e-4]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_short_numbers():
    values = (0, 0.5, 1234, 7680, 12000, -0.25, 1e-4, 2e-7)
    assert [short(value) for value in values] == [
        "0", "0.5", "1234", "7680", "12k", "-0.25", "1e-4", "2e-7",
    ]  # fmt: skip


def test_smoothing_keeps_a_straight_line_and_the_ends():
    line = [(float(x), 2.0 * x + 1) for x in range(60)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    bumpy = [(float(x), float(x % 2)) for x in range(60)]
    assert all(abs(y - 0.5) <= 0.17 for _, y in smoothed(bumpy)[3:-3])
    assert smoothed(bumpy)[0] == bumpy[0] and smoothed(bumpy)[-1] == bumpy[-1]


@pytest.mark.parametrize(
    "values", [[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [-1e-9, 1e-9, 0]]
)
def test_a_chart_is_well_formed_inside_its_frame_and_has_a_description(values: list[float]):
    data = [(float(8 * index), value) for index, value in enumerate(values)]
    for chart in (
        line_chart(data, title="KL & more", x_label="images"),
        line_chart(data, title="Judge", x_label="images", markers=True),
        path_chart(data, title="Way", x_label="reward", y_label="judge"),
    ):
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img" and len(root.get("aria-label")) > 10
        for path in root.iter("path"):
            if path.get("class") in ("line", "raw"):
                pairs = [pair.split() for pair in path.get("d")[1:].split("L")]
                assert len(pairs) == 3
                assert all(0 <= float(x) <= 340 and 0 <= float(y) <= 210 for x, y in pairs)


def test_higher_values_stand_higher():
    root = ElementTree.fromstring(
        line_chart([(0.0, 1.0), (8.0, 2.0)], title="t", x_label="x", markers=True)
    )
    low, high = (float(dot.get("cy")) for dot in root.iter("circle"))
    assert high < low


def test_several_lines_share_a_scale_and_a_band_holds_its_line():
    chart = lines_chart(
        [
            Line("line", [(0.0, 1.0), (1.0, 2.0)], [(0.5, 1.5), (1.0, 3.0)]),
            Line("other", [(0.0, 1.0), (1.0, 4.0)]),
        ],
        {0.0: "one & first", 1.0: "two"},
        description="what it shows",
        x_label="n",
    )
    root = ElementTree.fromstring(chart)
    assert root.get("aria-label") == "what it shows"
    words = [text.text for text in root.iter("text")]
    assert "one & first" in words and "two" in words
    ways = {path.get("class"): path.get("d") for path in root.iter("path")}
    heights = {
        name: [float(pair.split()[1]) for pair in ways[name][1:].rstrip("Z").split("L")]
        for name in ("line", "other", "band")
    }
    # Up is less: from one start the other line ends twice as high above the first.
    assert heights["line"][0] == heights["other"][0]
    rise = heights["line"][0] - heights["line"][1]
    assert heights["other"][0] - heights["other"][1] == pytest.approx(3 * rise, abs=0.3)
    low_0, low_1, high_1, high_0 = heights["band"]
    assert low_0 > heights["line"][0] > high_0 and low_1 > heights["line"][1] > high_1


def test_a_marked_point_has_a_name_and_stands_on_its_line():
    chart = lines_chart(
        [Line("line", [(0.0, 0.7), (10.0, 0.5), (20.0, 0.6)])],
        {0.0: "0", 20.0: "20"},
        description="loss",
        x_label="updates",
        y_form=short_percent,
        mark=((10.0, 0.5), "kept & calibrated"),
    )
    root = ElementTree.fromstring(chart)
    (end,) = [dot for dot in root.iter("circle") if dot.get("class") == "end"]
    lowest = [dot for dot in root.iter("circle") if dot.get("class") == "dot"][1]
    assert (end.get("cx"), end.get("cy")) == (lowest.get("cx"), lowest.get("cy"))
    words = [text.text for text in root.iter("text")]
    assert "kept & calibrated" in words and "60\u00a0%" in words


def test_dots_stand_in_columns_with_their_intervals_and_a_level():
    found = [Dot(0, 0.5, 0.4, 0.6), Dot(1, 0.9, 0.85, 0.95)]
    chart = dots_chart(
        found, {0: "least", 1: "most"}, description="two dots", x_label="how sure", level=0.5
    )
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img" and root.get("aria-label") == "two dots"
    first, second = root.iter("circle")
    # A quarter and three quarters of the width from 46 to 326.
    assert (first.get("cx"), second.get("cx")) == ("116.0", "256.0")
    ways = [path.get("d") for path in root.iter("path") if path.get("class") == "whisker"]
    for dot, way, one in zip((first, second), ways, found, strict=True):
        low, high = (float(y) for y in way.split(" ")[1].split("V"))
        assert 0 < high < float(dot.get("cy")) < low < 210
        share = (low - float(dot.get("cy"))) / (low - high)
        assert share == pytest.approx((one.y - one.low) / (one.high - one.low), abs=0.01)
    (level,) = [path.get("d") for path in root.iter("path") if path.get("class") == "plain"]
    assert level == f"M46 {first.get('cy')}H326"


def test_a_forecast_that_is_honest_lies_on_the_diagonal():
    found = [Dot(0.25, 0.25, 0.1, 0.4, 100), Dot(0.5, 0.5, 0.5, 0.5, 25), Dot(1, 0.5, 0, 1, 1)]
    root = ElementTree.fromstring(reliability_chart(found, description="d", x_label="predicted"))
    (diagonal,) = [path.get("d") for path in root.iter("path") if path.get("class") == "plain"]
    (x0, y0), (x1, y1) = (map(float, end.split()) for end in diagonal[1:].split("L"))
    assert (x0, y0, x1, y1) == (46, 174, 326, 12)
    honest, half, wrong = root.iter("circle")
    for dot in (honest, half):
        across = (float(dot.get("cx")) - x0) / (x1 - x0)
        up = (float(dot.get("cy")) - y0) / (y1 - y0)
        assert across == pytest.approx(up, abs=1e-3)
    assert wrong.get("cx") == "326.0" and wrong.get("cy") == "93.0"
    # Areas go with the counts, down to a size that can be seen.
    assert [dot.get("r") for dot in (honest, half, wrong)] == ["6.0", "3.0", "2.0"]


def test_settings_become_rows():
    tree = {"lora": None, "objective": {"ties": "half", "shares": [0.25, 0.5], "on": True}}
    rows = [("objective.ties", "half"), ("objective.shares", "0.25, 0.5"), ("objective.on", "true")]
    assert list(flattened(tree, "")) == rows
    assert list(flattened({"rows": list(range(9))}, "a")) == [("a.rows", "9 entries")]


def test_names_are_listed_as_in_a_sentence():
    assert [listed(names) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_shares_on_an_axis():
    assert [short_percent(share) for share in (0, 0.55, 0.825, 1)] == [
        "0\u00a0%", "55\u00a0%", "82.5\u00a0%", "100\u00a0%",
    ]  # fmt: skip


def test_numbers_are_said_with_their_sign_and_unknown_ones_as_unknown():
    assert points(-0.0123) == "\u22121.2" and points(0.0) == "0.0" and points(-0.0001) == "0.0"
    assert points_interval([-0.01, 0.2]) == "[\u22121.0, +20.0]"
    assert points_interval([None, None]) == "not known" and signed(None) == "not known"
    assert percent_interval([0.442, 0.571]) == "[44, 57]"
    assert percent(-0.004) == "0\u00a0%" and percent(-0.27) == "\u221227\u00a0%"
    assert count(1234567) == "1\u2009234\u2009567"


@pytest.mark.parametrize(
    ("size", "shown"), [((64, 64), (64, 64)), ((400, 400), (160, 160)), ((100, 320), (160, 50))]
)
def test_a_picture_keeps_its_shape_and_stays_light(size, shown):
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(0))
    uri = data_uri(image.to(torch.uint8))
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    with Image.open(BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == shown


def test_a_page_has_the_style_and_no_name_that_nobody_gave(tmp_path: Path):
    template = tmp_path / "page.html.j2"
    template.write_text("<style>{{ style }}</style><p>{{ share | percent }} of {{ name }}</p>")
    page = render_page(template, share=0.25, name="<you>")
    assert "--paper" in page and page.endswith("<p>25\u00a0% of &lt;you&gt;</p>")
    with pytest.raises(jinja2.UndefinedError, match="name"):
        render_page(template, share=0.25)
