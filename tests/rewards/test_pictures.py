"""Pictures on their way into a model, against Pillow itself and against numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from components.rewards.pictures import (
    CLIP_MEAN,
    CLIP_STD,
    Preprocessing,
    in_equal_parts,
    normalised,
    resized,
)
from components.rewards.scorers.clip_towers import cleaned
from components.rewards.scorers.hps_v2 import prepare
from tests.support.given_numbers import pictures, uniform

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(height: int, width: int) -> torch.Tensor:
    """uint8 [1, 3, height, width]: where rounding and ringing are at their worst."""
    values = (uniform("bytes", (1, 3, height, width)) + 1) * 128
    return values.to(torch.uint8)


def by_pillow(images: torch.Tensor, height: int, width: int, filter: str) -> torch.Tensor:
    drawn = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    made = [np.array(image.resize((width, height), FILTERS[filter])) for image in drawn]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    ("size", "target", "share"),
    [
        ((64, 64), (32, 32), 0.0),
        ((96, 64), (48, 32), 0.0),
        ((512, 512), (224, 224), 0.006),
        ((300, 200), (336, 224), 0.02),
        ((100, 333), (67, 224), 0.006),
        ((30, 40), (63, 84), 0.05),
    ],
)
def test_bytes_are_those_of_pillow(
    size: tuple[int, int], target: tuple[int, int], share: float, filter: str
) -> None:
    images = noise(*size)
    off = (resized(images, *target, filter).int() - by_pillow(images, *target, filter).int()).abs()
    assert int(off.max()) <= 1
    assert float((off > 0).float().mean()) <= share


def test_rounding_once_would_be_another_picture() -> None:
    """Noise overshoots the range after the first of the two passes, and Pillow cuts it there."""
    images = noise(128, 128)
    once = torch.nn.functional.interpolate(
        images.float(), size=(56, 56), mode="bicubic", antialias=True
    )
    off = (once.round().clamp(0, 255) - by_pillow(images, 56, 56, "bicubic")).abs()
    assert int(off.max()) > 1


def test_floats_are_not_rounded_and_stay_in_range() -> None:
    images = noise(64, 64)
    floats = (images.float() / 255).requires_grad_()
    with_graph = resized(floats, 28, 28, "bicubic")
    small = with_graph.detach()
    assert with_graph.requires_grad and float(small.min()) >= 0 and float(small.max()) <= 1
    off = small * 255 - resized(images, 28, 28, "bicubic")
    assert float(off.abs().max()) > 0.4 and float(off.abs().mean()) < 1


def test_the_longer_edge_is_cut_down() -> None:
    # 224 * 771 / 512 = 337.3, 224 * 773 / 512 = 338.2, and 224 * 770 / 512 = 336.9.
    for longer, kept in ((771, 337), (773, 338), (770, 336)):
        whole = Preprocessing(224, 0, "bilinear", CLIP_MEAN, CLIP_STD)
        seen = []
        for size in ((512, longer), (longer, 512)):
            picture = torch.zeros(1, 3, *size, dtype=torch.uint8)
            seen.append(_uncropped(whole, picture))
        assert seen == [(224, kept), (kept, 224)]


def _uncropped(whole: Preprocessing, picture: torch.Tensor) -> tuple[int, ...]:
    found: list[torch.Tensor] = []
    original = Preprocessing._centred
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Preprocessing, "_centred", lambda self, x: found.append(x) or original(self, x)
        )
        whole.resize(picture)
    return tuple(found[0].shape[-2:])


@pytest.mark.parametrize(
    ("width", "left", "even"),
    [(4, 0, 0), (5, 0, 0), (6, 1, 1), (7, 1, 2), (8, 2, 2), (9, 2, 2), (11, 3, 4)],
)
def test_the_crop_is_that_of_transformers_or_of_torchvision(
    width: int, left: int, even: int
) -> None:
    columns = torch.arange(width, dtype=torch.uint8).expand(1, 3, 4, width)
    for even_crop, first in ((False, left), (True, even)):
        cut = Preprocessing(4, 4, "bicubic", CLIP_MEAN, CLIP_STD, even_crop).resize(columns)
        assert cut[0, 0, 0].tolist() == list(range(first, first + 4))


def test_normalised_by_hand() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalised(images, (0.5, 0.1, 0.2), (0.25, 0.5, 0.4)).flatten().tolist()
    assert found == pytest.approx([(0 - 0.5) / 0.25, (0.2 - 0.1) / 0.5, (1 - 0.2) / 0.4])


def test_hps_puts_black_around_the_longest_edge() -> None:
    """A white picture of 4 x 8 at size 8: two black rows above it and two below."""
    black, white = (
        torch.tensor([(value - m) / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)])
        for value in (0.0, 1.0)
    )
    seen = prepare(torch.full((1, 3, 4, 8), 255, dtype=torch.uint8), 8)
    assert seen.shape == (1, 3, 8, 8)
    for row in range(8):
        expected = white if 2 <= row < 6 else black
        torch.testing.assert_close(seen[0, :, row], expected[:, None].expand(-1, 8))
    # An odd rest goes below: 16 x 10 becomes 8 x 5, with 1 column to the left and 2 to the right.
    narrow = prepare(torch.ones(1, 3, 16, 10), 8)
    filled = torch.isclose(narrow[0, 0, 4], white[0], atol=1e-4)
    assert filled.tolist() == [False, *[True] * 5, False, False]


def test_hps_does_not_round_and_may_ring() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., 32:] = 255
    pixels = prepare(images, 30) * torch.tensor(CLIP_STD).view(3, 1, 1)
    pixels = pixels + torch.tensor(CLIP_MEAN).view(3, 1, 1)
    assert float(pixels.max()) > 1.01 and float(pixels.min()) < -0.01
    assert torch.equal(prepare(images.float() / 255, 30), prepare(images, 30))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a  red\n\tfox ", "a red fox"),
        ("\u201cso hot\u201d, it\u2019s", '"so hot", it\'s'),
        ("salt &amp;amp; pepper &lt;3", "salt & pepper <3"),
        ("girl\uff0c\uff21\u3000b \ufb01n", "girl,A b fin"),
        ("caf\u00e9 \u732b", "caf\u00e9 \u732b"),
    ],
)
def test_prompts_as_open_clip_reads_them(prompt: str, expected: str) -> None:
    assert cleaned(prompt) == expected


def test_every_pass_has_the_same_number_of_rows() -> None:
    seen: list[list[int]] = []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        return torch.stack([rows.float(), -rows.float()], dim=1)

    assert in_equal_parts(5, 2, compute).tolist() == [[r, -r] for r in range(5)]
    assert seen == [[0, 1], [2, 3], [4, 4]]


def test_pictures_in_place_are_not_changed() -> None:
    images = pictures(2, 40, 48)
    before = images.clone()
    Preprocessing(16, 16, "bicubic", CLIP_MEAN, CLIP_STD)(images)
    prepare(images, 16)
    assert torch.equal(images, before)
