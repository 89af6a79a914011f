"""Charts, wording and the grid's parts: exact where a number or a sentence could mislead."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from io import BytesIO

import pytest
import torch
from PIL import Image

from components.evaluation.grid import Block, draw_grid
from components.evaluation.wording import hacking_line, headline, settings_rows
from components.pages.charts import line_chart, nice_ticks, path_chart, short, smoothed
from components.pages.numbers import count, percent_interval, points, points_interval, signed


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


def evaluation(verdict: str, sign: str, change: float) -> dict:
    task = {"reward_hacking": sign}
    return {
        "verdict": verdict,
        "base": {"correct": 0.492},
        "lora": {"correct": 0.492 + change},
        "difference": {"value": change, "interval": [change - 0.04, change + 0.04]},
        "reward_difference": {"value": 0.61, "interval": [0.5, 0.72]},
        "reward_hacking": sign,
        "by_category": {"colour": {"reward_hacking": "no"}, "count": task},
    }


def test_the_headline_claims_no_more_than_the_interval():
    assert headline(evaluation("better", "no", 0.12)) == (
        "The LoRA draws 61\u00a0% prompt-correct images on unseen prompts, the base 49\u00a0%."
    )
    assert headline(evaluation("worse", "no", -0.12)).startswith("The LoRA draws only 37\u00a0%")
    assert headline(evaluation("unclear", "no", 0.01)).startswith("No clear difference: ")


def test_the_hacking_line_names_the_tasks():
    assert hacking_line(evaluation("better", "no", 0.12)) == (
        "No sign of reward hacking: the reward changed by +0.61 [+0.50, +0.72], "
        "the judge's verdict by +12.0 points [+8.0, +16.0]."
    )
    assert hacking_line(evaluation("worse", "yes", -0.12)).endswith("fell in: count.")


def test_numbers_are_said_with_their_sign_and_unknown_ones_as_unknown():
    assert points(-0.0123) == "\u22121.2" and points(0.0) == "0.0" and points(-0.0001) == "0.0"
    assert points_interval([-0.01, 0.2]) == "[\u22121.0, +20.0]"
    assert points_interval([None, None]) == "not known" and signed(None) == "not known"
    assert percent_interval([0.442, 0.571]) == "[44, 57]"
    assert count(1234567) == "1\u2009234\u2009567"


def test_settings_are_flattened_in_order():
    rows = settings_rows(
        {"settings": {"lora": {"rank": 4}, "method": {"name": "dpok", "critic": False}}},
        {"modules": [str(index) for index in range(64)], "targets": ["to_q", "to_k"]},
    )
    assert rows == [
        ("lora.rank", "4"),
        ("method.name", "dpok"),
        ("method.critic", "false"),
        ("adapter.modules", "64 entries"),
        ("adapter.targets", "to_q, to_k"),
    ]


def block(category: str, prompt: str, side: int = 32, samples: int = 3) -> Block:
    images = torch.full((samples, 3, side, side), 200, dtype=torch.uint8)
    marks = [index == 0 for index in range(samples)]
    return Block(category, prompt, images, images // 2, marks, [True] * samples)


@pytest.mark.parametrize("side", [16, 64, 512])
def test_the_grid_fits_any_image_size_and_long_or_foreign_prompts(side: int):
    long = "a very long prompt " * 30
    blocks = [block("colour", long, side), block("count", "ein Bär für Łukasz", side)]
    with Image.open(BytesIO(draw_grid(blocks, 0.01))) as grid:
        assert 560 <= grid.width <= 1100
        assert grid.getpixel((0, 0)) == grid.getpixel((grid.width - 1, grid.height - 1))
    assert draw_grid(blocks, 0.01) == draw_grid(blocks, 0.01)


def test_the_grid_grows_by_rows_of_two_prompts():
    def height(prompts: int) -> int:
        blocks = [block("colour", f"prompt {index}") for index in range(prompts)]
        with Image.open(BytesIO(draw_grid(blocks, float("nan")))) as grid:
            return grid.height

    assert height(1) == height(2) < height(3) == height(4)
