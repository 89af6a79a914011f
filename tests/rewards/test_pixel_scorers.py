"""Scorers that look at pixels alone: colour statistics and JPEG sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from components.contracts.errors import DataError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import ColourScorerSettings, JpegScorerSettings

CPU = ComputeSettings(device="cpu", threads=1)
STATISTICS = ("brightness", "saturation", "contrast", "sharpness", "colourfulness")


def colour(statistic: str, prefer: str = "high") -> Scorer:
    settings = ColourScorerSettings(statistic=statistic, prefer=prefer)
    return build_scorer(settings, CPU, Path())


def noise(count: int, size: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def plain(*rgb: int) -> torch.Tensor:
    return torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("statistic", "rgb", "expected"),
    [
        ("brightness", (255, 0, 0), 0.2126),
        ("saturation", (200, 150, 100), 0.5),
        ("contrast", (255, 0, 0), 0.0),
        ("sharpness", (255, 0, 0), 0.0),
        # rg = 1 and yb = 1/2 everywhere: 0.3 sqrt(1.25).
        ("colourfulness", (255, 0, 0), 0.335410),
    ],
)
def test_a_statistic_is_the_score(
    statistic: str, rgb: tuple[int, int, int], expected: float
) -> None:
    assert colour(statistic).score(plain(*rgb), [""]).tolist() == pytest.approx([expected])
    low = colour(statistic, "low").score(plain(*rgb), [""])
    assert low.tolist() == pytest.approx([-expected])
    assert low.dtype == torch.float32


@pytest.mark.parametrize("statistic", STATISTICS)
def test_bytes_and_floats_of_a_picture_score_alike(statistic: str) -> None:
    images = noise(11)
    scorer = colour(statistic)
    scores = scorer.score(images, [""] * 11)
    assert torch.equal(scores, scorer.score(images.float() / 255, [""] * 11))
    assert float(scores.std()) > 1e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_score_does_not_depend_on_the_batch(statistic: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images = noise(11, 256)
        scorer = colour(statistic)
        scores = scorer.score(images, [""] * 11)
        alone = [scorer.score(image[None], [""]) for image in images]
        assert torch.equal(torch.cat(alone), scores)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_flow_and_grey_has_none_that_is_no_number(statistic: str) -> None:
    pixels = torch.cat([noise(2, 6).float() / 255, torch.full((1, 3, 6, 6), 0.5)]).requires_grad_()
    scores = colour(statistic).score(pixels, [""] * 3)
    (slope,) = torch.autograd.grad(scores.sum(), pixels)
    assert bool(slope[:2].any())
    assert bool(slope.isfinite().all())


def test_a_picture_too_small_to_be_sharp_is_one_line() -> None:
    with pytest.raises(DataError, match=r"sharpness of images of shape \[8, 3, 2, 5\]; allowed: 3"):
        colour("sharpness").score(noise(1)[..., :2, :5], [""])


def jpeg(prefer: str = "small", quality: int = 95) -> Scorer:
    settings = JpegScorerSettings(prefer=prefer, quality=quality)
    return build_scorer(settings, CPU, Path())


@pytest.mark.parametrize("quality", [95, 40])
def test_the_size_is_that_of_the_file(quality: int, tmp_path: Path) -> None:
    images = torch.cat([noise(2), torch.full((1, 3, 24, 24), 77, dtype=torch.uint8)])
    sizes = []
    for number, image in enumerate(images):
        file = tmp_path / f"{number}.jpg"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, quality=quality)
        sizes.append(file.stat().st_size)
    large = jpeg("large", quality).score(images, [""] * 3)
    assert large.tolist() == pytest.approx([size / 1000 for size in sizes])
    assert torch.equal(jpeg("small", quality).score(images, [""] * 3), -large)
    assert large.dtype == torch.float32
    # Noise compresses badly, a plain picture well.
    assert float(large[0]) > 1.2 * float(large[2])


def test_floats_are_rounded_to_the_bytes_that_a_file_would_hold() -> None:
    images = noise(3)
    pixels = (images.float() / 255 + 0.3 / 255).clamp(0, 1).requires_grad_()
    scores = jpeg().score(pixels, [""] * 3)
    assert torch.equal(scores, jpeg().score(images, [""] * 3))
    assert not scores.requires_grad


@pytest.mark.parametrize("scorer", [jpeg(), colour("contrast")])
def test_no_images_have_no_scores(scorer: Scorer) -> None:
    assert scorer.score(noise(2)[:0], []).shape == (0,)
