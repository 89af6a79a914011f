"""One bootstrap for all figures of an audit: prompts are drawn, not images. Pure."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from components.contracts.intervals import Estimate

PerPrompt = Float[NDArray[np.float64], " p"]
Resampled = Float[NDArray[np.float64], " r"]
TINY = 1e-12
"""What counts as nothing to divide by."""


class Bootstrap:
    """How often each prompt was drawn in each of many resamples of the prompts.

    Images of one prompt resemble each other, so the prompt is the unit that chance drew. All
    figures use the same resamples: the interval of a difference or of a ratio knows that both sides
    come from the same prompts (Davison and Hinkley, Bootstrap Methods, 1997, section 2.4).
    """

    def __init__(self, num_prompts: int, num_resamples: int, generator: torch.Generator) -> None:
        drawn = torch.randint(num_prompts, (num_resamples, num_prompts), generator=generator)
        counts = torch.zeros(num_resamples, num_prompts, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        self._counts = counts.numpy()

    def means(self, values: PerPrompt) -> Resampled:
        """The mean over the prompts of each resample; a NaN is a prompt that says nothing."""
        known = np.isfinite(values)
        total = self._counts @ np.where(known, values, 0.0)
        with np.errstate(invalid="ignore"):  # a resample of prompts that all say nothing
            return total / (self._counts @ known.astype(np.float64))

    def mean(self, values: PerPrompt) -> Estimate:
        """The mean over the prompts that say something, with its 95 % percentile interval.

        Raises:
            ValueError: no prompt says anything.
        """
        if not np.isfinite(values).any():
            raise ValueError(f"no number among {len(values)} prompts")
        return _estimate(float(np.nanmean(values)), self.means(values))

    def ratio(self, values: PerPrompt, base: PerPrompt) -> Estimate | None:
        """The mean of `values` over that of `base`, likewise; None where `base` is not above 0."""
        over, under = self.means(values), self.means(base)
        if not base.mean() > TINY:
            return None
        # A resample whose base is nothing has no ratio; it is rare and left out.
        return _estimate(float(values.mean() / base.mean()), (over / under)[under > TINY])


def _estimate(value: float, resampled: Resampled) -> Estimate:
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
