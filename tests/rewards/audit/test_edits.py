"""Edits against numbers worked by hand, and what all of them promise."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from components.rewards.audit.edits import (
    EDITS,
    Edit,
    blur,
    brightness,
    contrast,
    flip,
    frame,
    hue,
    jpeg,
    noise,
    saturation,
    sharpen,
    text,
    zoom,
)


def plain(*rgb: int, height: int = 4, width: int = 6) -> torch.Tensor:
    """One picture of a single colour, uint8 [1, 3, h, w]."""
    return torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).repeat(1, 1, height, width)


def photo(height: int = 48, width: int = 64, count: int = 2) -> torch.Tensor:
    """Smooth coloured pictures with an edge in the middle, away from black and white."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 3, 4, generator=generator) * 150 + 50
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images[..., width // 2 :] *= 0.7
    return images.round().to(torch.uint8)


def colour(images: torch.Tensor) -> list[int]:
    return images[0, :, 0, 0].tolist()


def test_brightness_multiplies_and_stops_at_white() -> None:
    # 100 * 1.3 = 130, 200 * 1.3 = 260 and 10 * 1.3 = 13.
    assert colour(brightness(plain(100, 200, 10), 1.3)) == [130, 255, 13]
    assert colour(brightness(plain(100, 200, 10), 0.0)) == [0, 0, 0]


def test_contrast_is_around_the_mean_luma_of_the_picture() -> None:
    half = torch.cat([plain(0, 0, 0), plain(200, 200, 200)], dim=3)
    # Mean 100: 100 + 0.5 * (0 - 100) = 50 and 150; with 2 they would be -100 and 300.
    assert contrast(half, 0.5)[0, 0, 0].unique().tolist() == [50, 150]
    assert contrast(half, 2.0)[0, 0, 0].unique().tolist() == [0, 255]


def test_saturation_is_around_the_luma_of_the_pixel() -> None:
    # Luma of (150, 100, 100): 100 + 0.2126 * 50 = 110.63. Doubled: 110.63 + 2 * 39.37 = 189.37
    # and 110.63 - 2 * 10.63 = 89.37. Without colour all three are 111.
    assert colour(saturation(plain(150, 100, 100), 2.0)) == [189, 89, 89]
    assert colour(saturation(plain(150, 100, 100), 0.0)) == [111, 111, 111]


def test_hue_turns_red_to_green_and_leaves_greys() -> None:
    assert colour(hue(plain(200, 0, 0), 120)) == [0, 200, 0]
    assert colour(hue(plain(200, 0, 0), -120)) == [0, 0, 200]
    assert colour(hue(plain(90, 90, 90), 77)) == [90, 90, 90]
    # A third of the way back and forth is where it began.
    assert colour(hue(hue(plain(150, 120, 110), 6), -6)) == [150, 120, 110]


def test_blur_spreads_a_line_evenly_and_keeps_what_is_flat() -> None:
    line = torch.zeros(1, 3, 101, 101, dtype=torch.uint8)
    line[..., 50] = 200
    # Standard deviation of 0.02 * 101 = 2.02 pixels: the peak is 200 / (2.02 * sqrt(2 pi)) = 39.5.
    row = blur(line, 0.02)[0, 0, 7].tolist()
    assert row[50] == pytest.approx(39.5, abs=0.6)
    assert row == row[::-1] and row[50] > row[51] > row[52] > row[55]
    assert torch.equal(blur(plain(3, 90, 255), 0.02), plain(3, 90, 255))


def test_sharpening_overshoots_on_both_sides_of_an_edge() -> None:
    edge = torch.cat([plain(80, 80, 80, width=32), plain(160, 160, 160, width=32)], dim=3)
    row = sharpen(edge.repeat(1, 1, 16, 1), 1.0)[0, 0, 30]
    assert row[31] < 80 and row[32] > 160
    assert row[0] == 80 and row[63] == 160
    assert int(row[31]) - 80 == -(int(row[32]) - 160)


def test_noise_has_the_spread_that_it_is_given_and_its_own_generator() -> None:
    grey = plain(128, 128, 128, height=64, width=64)
    noisy = noise(grey, 0.05, torch.Generator().manual_seed(1)).float()
    # 5 % of 255 is 12.75, and rounding adds a twelfth to the variance.
    assert float(noisy.std()) == pytest.approx((12.75**2 + 1 / 12) ** 0.5, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(128, abs=0.5)
    again = noise(grey, 0.05, torch.Generator().manual_seed(1)).float()
    assert torch.equal(noisy, again)


def test_jpeg_is_what_pillow_writes_and_reads() -> None:
    images = photo()
    buffer = io.BytesIO()
    Image.fromarray(images[1].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=40)
    expected = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
    assert torch.equal(jpeg(images, 40)[1], expected)


@pytest.mark.parametrize("side", [64, 512])
@pytest.mark.parametrize("share", [0.55, 0.9])
def test_text_stands_at_the_foot_as_wide_as_it_is_told(side: int, share: float) -> None:
    grey = plain(128, 128, 128, height=side, width=side)
    written = text(grey, share)
    changed = (written != grey).any(dim=1)[0]
    rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
    width = int(columns.max() - columns.min() + 1)
    assert width == pytest.approx(share * side, abs=0.08 * side)
    assert abs(int(columns.max() + columns.min()) - side) <= 0.04 * side
    assert int(rows.min()) > 0.75 * side
    assert written.min() < 40 and written.max() > 180


def test_a_frame_covers_the_edge_and_nothing_else() -> None:
    images = photo(height=100, width=140)
    framed = frame(images, 0.05, 255)
    assert torch.equal(framed[..., 5:-5, 5:-5], images[..., 5:-5, 5:-5])
    edge = torch.ones(100, 140, dtype=torch.bool)
    edge[5:-5, 5:-5] = False
    assert (framed[..., edge] == 255).all()
    # A picture too small for its share still gets one pixel.
    assert colour(frame(plain(9, 9, 9), 0.01, 0)) == [0, 0, 0]


def test_two_flips_are_none_and_one_is_not() -> None:
    images = photo()
    assert torch.equal(flip(flip(images)), images)
    assert torch.equal(flip(images)[..., 0], images[..., -1])


def test_zoom_cuts_on_all_sides_or_repeats_the_edge() -> None:
    line = torch.zeros(1, 3, 100, 100, dtype=torch.uint8)
    line[..., 40:60, :] = 200
    # 10 % from each side leave 80 of 100 pixels: 20 bright rows become 25, and 100/120 * 20 = 17.
    for share, rows in ((0.1, 25), (-0.1, 17)):
        bright = (zoom(line, share)[0, 0, :, 50] > 100).sum()
        assert abs(int(bright) - rows) <= 1, share
    assert torch.equal(zoom(plain(7, 8, 9), -0.25), plain(7, 8, 9))


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_every_edit_changes_the_picture_a_little(edit: Edit, size: tuple[int, int]) -> None:
    images = photo(*size)
    before = images.clone()
    edited = edit.change(images, torch.Generator().manual_seed(3))
    assert torch.equal(images, before), "the original is left alone"
    assert edited.shape == images.shape and edited.dtype == torch.uint8
    difference = (edited.float() - images.float()).abs().mean(dim=(1, 2, 3))
    assert (difference > 0.01).all() and (difference < 60).all()
    # One picture alone is edited as among others; only noise is drawn anew.
    if edit.family != "noise":
        alone = edit.change(images[1:], torch.Generator())
        assert torch.equal(alone[0], edited[1])


def test_every_family_has_two_strengths_and_both_ways_where_there_are_two() -> None:
    assert len({edit.name for edit in EDITS}) == len(EDITS)
    strengths: dict[str, list[str]] = {}
    for edit in EDITS:
        strengths.setdefault(edit.family, []).append(edit.strength)
    assert strengths["saturation"] == ["−50 %", "−25 %", "+25 %", "+50 %"]
    assert strengths["hue"] == ["−12°", "−6°", "+6°", "+12°"]
    four = {"brightness", "contrast", "saturation", "hue", "zoom"}
    for family, found in strengths.items():
        assert len(found) == (4 if family in four else 1 if family == "flip" else 2), family


@pytest.mark.parametrize("family", ["brightness", "contrast", "saturation"])
def test_the_sign_of_an_edit_is_what_it_says(family: str) -> None:
    from components.contracts import image_statistics

    measure = getattr(image_statistics, family)
    images = photo()
    for edit in EDITS:
        if edit.family == family:
            change = measure(edit.change(images, torch.Generator())) - measure(images)
            assert ((change > 0) == ("+" in edit.strength)).all(), edit.name
