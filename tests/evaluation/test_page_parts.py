"""Wording and the grid's parts: exact where a sentence could mislead."""

from __future__ import annotations

from io import BytesIO

import pytest
import torch
from PIL import Image

from components.evaluation.grid import Block, draw_grid
from components.evaluation.wording import hacking_line, headline, settings_rows


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
