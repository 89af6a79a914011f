"""Rates, differences and their intervals. Pure functions of numpy arrays.

Images of one prompt resemble each other, so they are no independent trials: every interval here
treats the prompt as the unit that was drawn at random (a cluster), its images as one observation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from components.contracts.intervals import Z_95, Estimate, wilson_interval

DRAWS_AT_ONCE = 1_000_000
"""Clusters that the bootstrap draws at a time, which bounds its memory."""

Floats = Float[NDArray[np.float64], " n"]
Clusters = Int[NDArray[np.int64], " n"]
HackingSign = Literal["no", "watch", "yes"]


def clustered_bootstrap(
    values: Floats, clusters: Clusters, seed: int, num_resamples: int = 10_000
) -> Estimate:
    """Mean of `values` with the percentile interval of a bootstrap that resamples whole clusters.

    Each resample draws as many clusters as there are, with replacement, and takes the mean over all
    images of the clusters drawn (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8). For a
    paired difference hand in the differences: the pairing is then kept by construction.
    """
    sums, counts = _per_cluster(values, clusters)
    generator = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    rows = max(1, DRAWS_AT_ONCE // len(sums))
    for start in range(0, num_resamples, rows):
        size = (min(rows, num_resamples - start), len(sums))
        drawn = generator.integers(len(sums), size=size)
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def clustered_normal(values: Floats, clusters: Clusters) -> Estimate:
    """The same mean with a normal interval of cluster-robust standard error: a second opinion.

    The variance of a ratio of cluster sums by linearisation (Cochran, Sampling Techniques, 1977,
    section 6.3): G / (G - 1) * sum_g (S_g - mean * N_g)^2 / (sum_g N_g)^2. One cluster alone says
    nothing about the spread: the interval is then infinite.
    """
    mean, half = float(values.mean()), Z_95 * _standard_error(values, clusters)
    return Estimate(mean, mean - half, mean + half)


def clustered_share(
    outcomes: Floats, clusters: Clusters, num_images: int | None = None
) -> Estimate:
    """A share (outcomes in [0, 1]) with a Wilson interval of its effective number of trials.

    Images of a prompt repeat each other; Kish's design effect says how many independent images they
    are worth, at most as many as there are: one an outcome, or `num_images` where an outcome is the
    mean of several. At a share of 0 or 1 it cannot be measured, so that each cluster counts as one
    trial.
    """
    share = float(outcomes.mean())
    error = _standard_error(outcomes, clusters)
    independent = share * (1 - share) / len(outcomes)
    if independent > 0 and np.isfinite(error):
        least = len(outcomes) / (num_images or len(outcomes))
        num_trials = len(outcomes) / max(least, error**2 / independent)
    else:
        num_trials = float(len(np.unique(clusters)))
    return Estimate(share, *wilson_interval(share, num_trials))


def win_outcomes(ours: Floats, theirs: Floats) -> Floats:
    """1 where ours is higher, 0 where theirs is, one half for a tie."""
    return np.where(ours == theirs, 0.5, (ours > theirs).astype(np.float64))


def correlation(x: Floats, y: Floats) -> float | None:
    """Pearson's correlation; None where one side does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))


def hacking_sign(reward: Estimate, correct: Estimate) -> HackingSign:
    """Whether the reward rose while the judge's verdict fell.

    `yes`: both intervals exclude zero. `watch`: only the means point that way. Arguments are the
    differences LoRA minus base.
    """
    if reward.above_zero and correct.below_zero:
        return "yes"
    return "watch" if reward.value > 0 > correct.value else "no"


def as_floats(outcomes: Bool[NDArray[np.bool_], " n"]) -> Floats:
    """Verdicts as 0 and 1."""
    return outcomes.astype(np.float64)


def _per_cluster(values: Floats, clusters: Clusters) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster."""
    if len(values) == 0 or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} cluster labels")
    _, index = np.unique(clusters, return_inverse=True)
    return np.bincount(index, weights=values), np.bincount(index).astype(np.float64)


def _standard_error(values: Floats, clusters: Clusters) -> float:
    sums, counts = _per_cluster(values, clusters)
    if len(sums) < 2:
        return float("inf")
    residuals = sums - values.mean() * counts
    variance = len(sums) / (len(sums) - 1) * (residuals**2).sum() / counts.sum() ** 2
    return float(variance**0.5)
