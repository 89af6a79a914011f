"""A real judge and a real reward, small enough for tests; both read nothing but pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts.image_statistics import brightness


class BrightnessJudge:
    """Calls an image correct when it is brighter than `threshold`; its score is the brightness."""

    def __init__(self, threshold: float = 0.5, error_rate: float = 0.025) -> None:
        self.threshold, self.error_rate = threshold, error_rate

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Brightness in [0, 1], float32 [b]; a prompt that says so is not readable."""
        if any("unreadable" in prompt for prompt in prompts):
            raise ValueError("an unreadable prompt")
        return brightness(images)

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """bool [b]."""
        return self.score(images, prompts) > self.threshold


class RednessReward:
    """How much more red than blue an image is; `broken` gives not-a-number instead."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32 [b] in [-1, 1]."""
        pixels = images.float() / 255
        redness = (pixels[:, 0] - pixels[:, 2]).mean(dim=(1, 2))
        return torch.full_like(redness, float("nan")) if self.broken else redness
