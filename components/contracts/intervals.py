"""A figure with its interval, and the interval of a share, in one way wherever one is told."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z_95 = 1.959963984540054
"""Quantile of the standard normal that leaves 2.5 % above it."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def above_zero(self) -> bool:
        """The whole interval is positive."""
        return self.low > 0

    @property
    def below_zero(self) -> bool:
        """The whole interval is negative."""
        return self.high < 0


def wilson_interval(share: float, num_trials: float) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share of independent trials (Wilson, 1927).

    It stays inside [0, 1] and does not shrink to a point at 0 or 1, where a bootstrap would.
    Worked: 8 of 10 gives [0.490, 0.943]; 9 of 10 has the centre (0.9 + 0.19207) / 1.38415 = 0.78898
    and half the width 0.19314, so [0.5958, 0.9821].
    """
    z2 = Z_95**2
    scale = 1 + z2 / num_trials
    centre = (share + z2 / (2 * num_trials)) / scale
    half = Z_95 * sqrt(share * (1 - share) / num_trials + z2 / (4 * num_trials**2)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
