"""Mixtures of a reward and a shortcut, and from where on they are refused."""

from __future__ import annotations

import pytest
import torch

from benchmarks.audit import Remembered, Saturated, refused_from


@pytest.mark.parametrize(
    ("passed", "weight"),
    [
        ([True, True, False, False], 2.0),
        ([True, False, True, False], 3.0),
        ([False, False, False, False], 0.0),
        ([False, True, True, True], None),
    ],
)
def test_refused_from_is_where_no_larger_weight_passes(passed: list[bool], weight: float | None):
    mixtures = [{"weight": float(at), "passed": verdict} for at, verdict in enumerate(passed)]
    assert refused_from(mixtures) == weight


class Counting:
    def __init__(self) -> None:
        self.asked = 0

    def score(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        self.asked += 1
        return images.float().mean(dim=(1, 2, 3))


def test_the_same_pictures_are_scored_once_and_others_again():
    counting = Counting()
    remembered = Remembered(counting)
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    first = remembered.score(images, ["a", "b"])
    assert torch.equal(remembered.score(images.clone(), ["a", "b"]), first)
    assert counting.asked == 1
    remembered.score(images + 1, ["a", "b"])
    assert counting.asked == 2


def test_a_mixture_is_in_spreads_of_both():
    # A grey picture of 6 has no saturation; red has all of it and a mean of 2.
    grey = torch.full((1, 3, 2, 2), 6, dtype=torch.uint8)
    red = grey * torch.tensor([1, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    mixed = Saturated(Counting(), (2.0, 0.5), 3.0)
    # 6 / 2 + 0 and 2 / 2 + 3 * 1 / 0.5.
    assert mixed.score(torch.cat([grey, red]), ["", ""]).tolist() == pytest.approx([3, 7])
    assert Saturated(None, (1.0, 0.5), 1.0).score(red, [""]).tolist() == pytest.approx([2])
