"""Colour statistics as a scorer: `{name: colour, statistic: saturation, prefer: high}`.

Nobody should train on one of these alone. They are what a reward model can learn in place of
taste, so an audit plants them, and a run can hold one against the drift that it fears.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from components.contracts import image_statistics
from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_float, in_equal_parts
from components.rewards.scorers.settings import ColourScorerSettings

CHUNK = 8
"""Images measured together; the last part is filled up to it."""


class ColourScorer:
    """A statistic of `image_statistics`, or the negative of it."""

    differentiable = True

    def __init__(self, settings: ColourScorerSettings, compute: ComputeSettings) -> None:
        self._statistic = getattr(image_statistics, settings.statistic)
        self._sign = 1.0 if settings.prefer == "high" else -1.0
        self._device = find_device(compute)

    @classmethod
    def build(
        cls, settings: ColourScorerSettings, compute: ComputeSettings, root: Path
    ) -> ColourScorer:
        """There is nothing to load."""
        return cls(settings, compute)

    def score(self, images: Images, prompts: Sequence[str]) -> Float[Tensor, " b"]:
        """The statistic where `prefer` is high, and its negative where it is low; the prompts say
        nothing.

        Raises:
            DataError: the images are too small for the statistic.
        """

        def measured(rows: Tensor) -> Tensor:
            return self._sign * self._statistic(as_float(images[rows].to(self._device)))

        return in_equal_parts(len(images), CHUNK, measured)
