"""Text rendering, read back by the real model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from components.contracts.errors import DataError, SettingsError
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.ocr import OcrScorer, quoted_text
from components.rewards.scorers.settings import OcrScorerSettings

CPU = ComputeSettings(device="cpu", threads=1)


def sign(text: str, size: int = 128, points: int = 20, ink: str = "black") -> torch.Tensor:
    """A white picture with black words, uint8 [3, size, size]."""
    image = Image.new("RGB", (size, size), "white")
    font = ImageFont.load_default(points)
    ImageDraw.Draw(image).multiline_text((6, size // 3), text, fill=ink, font=font)
    return torch.from_numpy(numpy.asarray(image).copy()).permute(2, 0, 1)


@pytest.fixture(scope="module")
def scorer() -> OcrScorer:
    pytest.importorskip("rapidocr_onnxruntime", exc_type=ImportError)
    return OcrScorer.build(OcrScorerSettings(), CPU, Path())


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('A sign that says "Hello World" at dusk', "Hello World"),
        ("A sign that says “Hello World”", "Hello World"),
        ('It\'s the baker\'s sign: "Bread", and "Cake"', "Bread"),
        ('"Open"', "Open"),
    ],
)
def test_the_text_stands_in_quotes(prompt: str, text: str) -> None:
    assert quoted_text(prompt) == text


@pytest.mark.parametrize(
    "prompt", ["a green rabbit", 'half "open', "it's 'single'", 'empty ""', 'blank "  "']
)
def test_a_prompt_without_text_is_one_line(prompt: str) -> None:
    with pytest.raises(DataError, match=r"finds no text in the prompt .*; allowed: prompts with"):
        quoted_text(prompt)


# Prompts ask for "Hello World": ten letters without the space.
@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Hello World", 1.0),
        ("HELLO\nWORLD", 1.0),
        ("say\nHello World", 1.0),  # within other words
        ("Hello", 0.5),  # five letters are missing
        ("Hallo World", 0.9),  # one is another
        ("sunny", 0.0),  # no letter in common
        ("", 0.0),
    ],
)
def test_what_is_written_is_read(scorer: OcrScorer, written: str, expected: float) -> None:
    image = sign(written)[None]
    (score,) = scorer.score(image, ['A shop sign "Hello World"']).tolist()
    assert score == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        ("abc", "abcd", 0.75),
        ("a b C", "AB c", 1.0),
        ("xxabcxx", "abc", 1.0),
        ("", "abc", 0.0),
        # Eight letters more cost at most the whole text, not more.
        ("uvwxyzuvwxyz", "abcd", 0.0),
        ("kitten", "sitting", 1 - 3 / 7),
    ],
)
def test_agreement_is_worked_by_hand(
    scorer: OcrScorer, found: str, wanted: str, expected: float
) -> None:
    assert scorer._agreement(found, wanted) == pytest.approx(expected)


def test_bytes_floats_and_batches_score_alike(scorer: OcrScorer) -> None:
    images = torch.stack([sign("Bread", ink="red"), sign("Cake"), sign("Bred")])
    prompts = ['"Bread"', '"Bake"', '"Bread"']
    scores = scorer.score(images, prompts)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx([1.0, 0.75, 0.8])
    assert torch.equal(scorer.score(images.float() / 255, prompts), scores)
    assert torch.equal(scorer.score(images[2:], prompts[2:]), scores[2:])


def test_colours_reach_the_reader_in_their_order(
    scorer: OcrScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[0] = 200
    seen = []

    def reader(pixels: numpy.ndarray, use_cls: bool) -> tuple[None, float]:
        seen.append(pixels)
        return None, 0.0

    monkeypatch.setattr(scorer, "_reader", reader)
    assert scorer.read(image) == ""
    assert seen[0].shape == (40, 40, 3)
    assert seen[0][0, 0].tolist() == [0, 0, 200]


def test_no_images_have_no_scores(scorer: OcrScorer) -> None:
    assert scorer.score(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), []).shape == (0,)


@pytest.mark.parametrize("module", ["rapidocr_onnxruntime", "rapidfuzz.distance"])
def test_without_the_extra_one_line_names_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = rf"'ocr' needs '{module}', which cannot be imported .*; allowed: pip install 'konomi"
    with pytest.raises(SettingsError, match=message):
        build_scorer(OcrScorerSettings(), CPU, Path())
