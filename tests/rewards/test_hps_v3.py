"""HPSv3's picture and instruction, and the prompts that it cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer, hps_v3
from components.rewards.scorers.published_settings import HpsV3Settings
from tests.rewards.tiny_networks import shrink, write_official
from tests.support.given_numbers import pictures

CPU = ComputeSettings(device="cpu", threads=1)
SETTINGS = HpsV3Settings(checkpoint=".", tokenizer="qwen", batch_size=2, dtype="float32")


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """With four tokens for a picture and few words."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        patch.setattr(hps_v3, "AREA", 4 * 28 * 28)
        patch.setattr(hps_v3, "instruction", lambda: "{image}{text_prompt}<|Reward|>.")
        folder = write_official(tmp_path_factory.mktemp("official"))
        yield build_scorer(SETTINGS, CPU, folder)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (512, 512, (448, 448)),
        (48, 40, (504, 420)),
        (37, 53, (392, 560)),
        (768, 1344, (336, 588)),
        (1080, 1920, (336, 588)),
        (100, 20, (1008, 224)),
        (13, 900, (56, 3752)),
        (448, 448, (448, 448)),
        (224, 896, (224, 896)),
        (1, 200, (56, 6356)),
    ],
)
def test_sizes_are_those_of_the_authors(height: int, width: int, expected: tuple[int, int]) -> None:
    """Written down from `smart_resize` of hpsv3 1.0.0."""
    assert hps_v3.sizes(height, width, 28) == expected


def test_edges_too_far_apart() -> None:
    with pytest.raises(DataError) as caught:
        hps_v3.sizes(1, 201, 28)
    assert str(caught.value) == "images of 1 x 201 pixels; allowed: edges within a factor of 200"


@pytest.mark.parametrize("prompt", ["a <|Reward|>", "<|image_pad|>"])
def test_a_prompt_with_the_networks_own_marks(scorer: Any, prompt: str) -> None:
    with pytest.raises(DataError, match="cannot be scored by HPSv3; allowed: prompts without"):
        scorer.score(pictures(1, 32, 32), [prompt])
    # The names of the places in the instruction are words as any other.
    assert scorer.score(pictures(1, 32, 32), ["{image} {text_prompt}"]).isfinite()


def test_the_instruction_has_a_place_for_each() -> None:
    text = hps_v3.INSTRUCTION.read_text(encoding="utf-8")
    for mark in ("{image}", "{text_prompt}", "<|Reward|>"):
        assert text.count(mark) == 1
    assert text.index("{image}") < text.index("{text_prompt}") < text.index("<|Reward|>")
    assert text.endswith("END\n<|im_end|>\n<|im_start|>assistant\n")


def test_mean_and_deviation_of_each_row(scorer: Any) -> None:
    images = pictures(3, 40, 48)
    both = scorer._scorer.mu_and_log_sigma(images, ["a", "sea", "b"])
    assert both.shape == (3, 2)
    assert torch.equal(both[:, 0], scorer.score(images, ["a", "sea", "b"]))


def test_the_network_in_bfloat16_and_its_head_in_float32(scorer: Any, tmp_path: Path) -> None:
    folder = write_official(tmp_path)
    half: Any = build_scorer(SETTINGS.model_copy(update={"dtype": "bfloat16"}), CPU, folder)
    model = half._scorer._model
    assert model.qwen.dtype == torch.bfloat16 and model.head[0].weight.dtype == torch.float32
    images = pictures(3, 40, 48)
    scores = half.score(images, ["a", "sea", "b"])
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, scorer.score(images, ["a", "sea", "b"]), atol=0.02, rtol=0)
