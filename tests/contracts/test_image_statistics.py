"""Brightness, saturation and diversity against numbers worked by hand and a brute-force loop."""

from itertools import combinations

import pytest
import torch

from components.contracts.image_statistics import (
    brightness,
    contrast,
    diversity,
    saturation,
    warmth,
)


def plain(*rgb: int) -> torch.Tensor:
    """One picture of a single colour, uint8 [1, 3, 4, 6]."""
    return torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 6).clone()


BLACK, WHITE, RED, GREY = plain(0, 0, 0), plain(255, 255, 255), plain(255, 0, 0), plain(51, 51, 51)


def test_brightness_is_the_luma_of_the_channels():
    found = brightness(torch.cat([BLACK, WHITE, RED, GREY]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.2126, 0.2]))


def test_saturation_is_zero_for_greys_and_black():
    # A brown of (200, 150, 100): (200 - 100) / 200 = 0.5.
    found = saturation(torch.cat([BLACK, WHITE, RED, GREY, plain(200, 150, 100)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.5]))


def test_contrast_is_the_spread_of_the_luma():
    half = torch.cat([BLACK, WHITE], dim=3)
    torch.testing.assert_close(contrast(half), torch.tensor([0.5]))
    assert contrast(RED).item() == 0


def test_warmth_is_red_less_blue():
    found = warmth(torch.cat([BLACK, WHITE, RED, plain(0, 255, 255), plain(200, 150, 98)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0, -1.0, 0.4]))


def test_diversity_of_black_and_white_is_one_and_groups_do_not_mix():
    images = torch.cat([BLACK, WHITE, RED, RED, GREY])
    # Group 4: distance 1. Group 9: two equal pictures, 0. Group 2: one picture, no pair.
    assert diversity(images, torch.tensor([4, 4, 9, 9, 2])) == pytest.approx(0.5)


def test_diversity_equals_a_loop_over_pairs():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (7, 3, 5, 5), generator=generator).to(torch.uint8)
    groups = torch.tensor([0, 1, 0, 1, 1, 0, 0])
    means = []
    for group in (0, 1):
        members = [images[i].double() / 255 for i in range(7) if groups[i] == group]
        distances = [(a - b).square().mean().sqrt() for a, b in combinations(members, 2)]
        means.append(sum(distances) / len(distances))
    assert diversity(images, groups) == pytest.approx(float(sum(means) / 2), rel=1e-5)


def test_diversity_without_any_pair_is_refused():
    with pytest.raises(ValueError, match="at least two pictures"):
        diversity(torch.cat([BLACK, WHITE]), torch.tensor([0, 1]))
