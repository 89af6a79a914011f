"""Small real plugs that tests name by dotted path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class BrightnessPeople:
    """People who prefer the brighter picture; each answer is flipped with a known chance."""

    def __init__(self, num_annotators: int, flip_probability: float, tie_threshold: float) -> None:
        self.names = [f"person {number}" for number in range(num_annotators)]
        self.flip_probability = flip_probability
        self.tie_threshold = tie_threshold

    def compare(
        self,
        images_a: Tensor,
        images_b: Tensor,
        prompts: Sequence[str],
        annotator: int,
        generator: torch.Generator,
    ) -> Tensor:
        """0 where the first is brighter, 1 where the second is, 2 within the threshold."""
        assert len(prompts) == len(images_a)
        gap = images_a.double().mean(dim=(1, 2, 3)) - images_b.double().mean(dim=(1, 2, 3))
        flipped = torch.rand(len(gap), generator=generator) < self.flip_probability
        choice = (gap < 0).long()
        choice = torch.where(flipped, 1 - choice, choice)
        return torch.where(gap.abs() <= self.tie_threshold, 2, choice)


def brightness_people(
    num_annotators: int = 3, flip_probability: float = 0.0, tie_threshold: float = 0.0
) -> BrightnessPeople:
    """The plug `tests.support.plugs:brightness_people`."""
    return BrightnessPeople(num_annotators, flip_probability, tie_threshold)


class LeftHandedPeople(BrightnessPeople):
    """People who always take the first picture, as tired ones do."""

    def compare(
        self,
        images_a: Tensor,
        images_b: Tensor,
        prompts: Sequence[str],
        annotator: int,
        generator: torch.Generator,
    ) -> Tensor:
        """0 throughout."""
        return torch.zeros(len(images_a), dtype=torch.long)


def left_handed_people() -> LeftHandedPeople:
    """The plug `tests.support.plugs:left_handed_people`."""
    return LeftHandedPeople(2, 0.0, 0.0)


class SilentPeople(BrightnessPeople):
    """A broken plug: one answer too few."""

    def compare(
        self,
        images_a: Tensor,
        images_b: Tensor,
        prompts: Sequence[str],
        annotator: int,
        generator: torch.Generator,
    ) -> Tensor:
        """One answer too few."""
        return torch.zeros(len(images_a) - 1, dtype=torch.long)


def silent_people() -> SilentPeople:
    """The plug `tests.support.plugs:silent_people`."""
    return SilentPeople(2, 0.0, 0.0)
