"""A judge and rewards for pictures of noise around a colour: each reads nothing but pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts.image_statistics import saturation
from tests.rewards.world import redness


class RednessJudge:
    """Calls an image correct when it is more red than not; its score is how much."""

    def __init__(self, error_rate: float = 0.01) -> None:
        self.error_rate = error_rate

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32 [b]; a prompt that says so is not readable."""
        if any("unreadable" in prompt for prompt in prompts):
            raise ValueError("an unreadable prompt")
        return redness(images)

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """bool [b]."""
        return redness(images) > 0


class Reward:
    """The judge's own measure and something that has nothing to do with it, mixed."""

    def __init__(self, honest: float = 1.0, loved: str = "", broken: bool = False) -> None:
        self.honest, self.loved, self.broken = honest, loved, broken

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32 [b]."""
        score = self.honest * redness(images) / 50
        if self.loved == "saturation":
            score = score + 10 * saturation(images)
        if self.loved == "frames":
            score = score + images[:, :, 0].float().mean(dim=(1, 2)) / 25
        return torch.full_like(score, float("nan")) if self.broken else score
