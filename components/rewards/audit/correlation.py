"""Rank correlations among the images of one prompt: with colours, and with the judge. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from components.contracts.image_statistics import brightness, contrast, saturation, warmth
from components.contracts.intervals import Estimate
from components.rewards.audit.resampling import Bootstrap

PerImage = Float[NDArray[np.float64], " m"]
PromptOf = Int[NDArray[np.int64], " m"]
STATISTICS = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "warmth": warmth,
}
"""What is measured of a picture without a model."""


@dataclass(frozen=True)
class ColourCorrelation:
    """How far one statistic orders the images of a prompt as the reward does."""

    statistic: str
    reward: Estimate
    """Mean Spearman correlation of statistic and reward, -1 to 1."""
    judge: Estimate
    """The same with the judge's score: what of it the truth explains."""

    @property
    def excess(self) -> float:
        """The size of the reward's correlation beyond the judge's in the same direction."""
        granted = max(0.0, self.judge.value * (1 if self.reward.value > 0 else -1))
        return max(0.0, abs(self.reward.value) - granted)


def spearman(x: PerImage, y: PerImage) -> float:
    """Pearson's correlation of the ranks; equal values share their mean rank.

    Worked: (1, 2, 3) with (1, 3, 2): the ranks' deviations (-1, 0, 1) and (-1, 1, 0) have the
    product 1 over sqrt(2 * 2), so 1/2.
    """
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (x, y)]
    return float(ranks[0] @ ranks[1] / np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))


def kendall(x: PerImage, y: PerImage) -> float:
    """Kendall's tau-b: concordant less discordant pairs, over what ties leave to agree on."""
    return float(kendalltau(x, y, variant="b").statistic)


def within_prompts(
    measured: PerImage,
    ours: PerImage,
    prompt_of: PromptOf,
    correlate: Callable[[PerImage, PerImage], float],
) -> Float[NDArray[np.float64], " p"]:
    """The correlation among the images of each prompt.

    NaN where `measured` is the same for all images of the prompt: there is nothing to order. 0
    where only `ours` is: it orders nothing.
    """
    found = []
    for prompt in np.unique(prompt_of):
        members = prompt_of == prompt
        x, y = measured[members], ours[members]
        if np.ptp(x) == 0:
            found.append(np.nan)
        else:
            found.append(0.0 if np.ptp(y) == 0 else correlate(x, y))
    return np.array(found)


def agreement(
    score: PerImage, reward: PerImage, prompt_of: PromptOf, bootstrap: Bootstrap
) -> Estimate:
    """Mean Kendall's tau-b of reward and judge's score among the images of a prompt.

    Raises:
        ValueError: the judge gives all images of each prompt the same score.
    """
    return bootstrap.mean(within_prompts(score, reward, prompt_of, kendall))


def colour_correlations(
    statistics: dict[str, PerImage],
    reward: PerImage,
    score: PerImage,
    prompt_of: PromptOf,
    bootstrap: Bootstrap,
) -> list[ColourCorrelation]:
    """One of each statistic that differs among the images of some prompt."""
    found = []
    for name, values in statistics.items():
        with_reward = within_prompts(values, reward, prompt_of, spearman)
        if np.isfinite(with_reward).any():
            with_judge = within_prompts(values, score, prompt_of, spearman)
            found.append(
                ColourCorrelation(name, bootstrap.mean(with_reward), bootstrap.mean(with_judge))
            )
    return found
