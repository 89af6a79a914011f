"""Statistics of pictures against numbers worked by hand, loops and finite differences."""

from itertools import combinations

import pytest
import torch

from components.contracts.errors import DataError
from components.contracts.image_statistics import (
    brightness,
    colourfulness,
    contrast,
    diversity,
    saturation,
    sharpness,
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


def test_warmth_is_red_less_blue():
    found = warmth(torch.cat([BLACK, WHITE, RED, plain(0, 255, 255), plain(200, 150, 98)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0, -1.0, 0.4]))


def test_contrast_is_the_standard_deviation_of_luma():
    # Half 0 and half 1: 0.5. A quarter white: sqrt(1/4 * 3/4).
    half = torch.cat([plain(0, 0, 0), plain(255, 255, 255)], dim=3)
    quarter = torch.cat([plain(0, 0, 0)] * 3 + [plain(255, 255, 255)], dim=3)
    assert contrast(half).tolist() == pytest.approx([0.5])
    assert contrast(quarter).tolist() == pytest.approx([0.1875**0.5])
    # Pure blue against black: luma 0 and 0.0722.
    blue = torch.cat([BLACK, plain(0, 0, 255)], dim=3)
    assert contrast(blue).tolist() == pytest.approx([0.0361])


def test_sharpness_is_the_standard_deviation_of_the_laplacian():
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    chessboard = ((rows + columns) % 2).float().expand(1, 3, 6, 6)
    # A white pixel has four black neighbours, -4; a black one four white ones, +4.
    assert sharpness(chessboard).tolist() == pytest.approx([4.0])
    # A ramp has no second difference. One white pixel in the middle of 3 x 3 inner ones:
    # -4 once, 1 four times, 0 four times; the mean is 0 and the mean square 20 / 9.
    ramp = (columns.float() / 10).expand(1, 3, 6, 6)
    assert sharpness(ramp).tolist() == pytest.approx([0.0], abs=1e-6)
    point = torch.zeros(1, 3, 5, 5)
    point[..., 2, 2] = 1
    assert sharpness(point).tolist() == pytest.approx([(20 / 9) ** 0.5])


def test_saturation_fades_where_a_byte_would_be_black():
    # Red of half of half a step of a byte: (1/1020) / (1/510).
    almost = torch.tensor([1 / 1020, 0.0, 0.0]).view(1, 3, 1, 1)
    assert saturation(almost).tolist() == pytest.approx([0.5], rel=1e-4)


def test_a_picture_without_an_inner_pixel_has_no_sharpness():
    assert sharpness(RED[:, :, :3, :3]).tolist() == [0.0]
    with pytest.raises(DataError, match=r"shape \[1, 3, 2, 6\]; allowed: 3 x 3 pixels or more"):
        sharpness(RED[:, :, :2])


def test_colourfulness_is_that_of_hasler_and_suesstrunk():
    # Red and cyan in equal parts, in bytes: rg = ±255, yb = 127.5 and -127.5: means 0, spreads 255
    # and 127.5. Red alone: means 255 and 127.5, no spread. Grey: nothing.
    both = torch.cat([RED, plain(0, 255, 255)], dim=3)
    norm = (255**2 + 127.5**2) ** 0.5
    assert (255 * colourfulness(both)).tolist() == pytest.approx([norm])
    assert (255 * colourfulness(RED)).tolist() == pytest.approx([0.3 * norm])
    assert colourfulness(torch.cat([BLACK, WHITE, GREY])).tolist() == pytest.approx([0.0] * 3)
    # Blue and black: rg = 0; yb = -255 and 0: mean -127.5, spread 127.5.
    blue = torch.cat([BLACK, plain(0, 0, 255)], dim=3)
    assert (255 * colourfulness(blue)).tolist() == pytest.approx([1.3 * 127.5])


STATISTICS = (brightness, saturation, contrast, sharpness, colourfulness)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_bytes_and_floats_measure_alike(statistic):
    images = torch.randint(0, 256, (4, 3, 7, 9), generator=torch.Generator().manual_seed(1))
    found = statistic(images.to(torch.uint8))
    assert torch.equal(found, statistic(images.float() / 255))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_are_those_of_finite_differences(statistic):
    generator = torch.Generator().manual_seed(2)
    images = 0.1 + 0.8 * torch.rand((2, 3, 5, 6), generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(statistic, images.requires_grad_())


@pytest.mark.parametrize("statistic", STATISTICS)
def test_where_nothing_varies_the_gradient_is_a_number(statistic):
    images = torch.full((1, 3, 5, 5), 0.5, requires_grad=True)
    (slope,) = torch.autograd.grad(statistic(images).sum(), images)
    assert slope.isfinite().all()


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
