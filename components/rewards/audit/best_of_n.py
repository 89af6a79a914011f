"""What choosing by the reward is worth to a judge that is not the reward.

For n from 1 to the number of images of each prompt: the mean of the judge's score and verdict over
the images that the reward picks, over all subsets of n, exactly (`contracts/selection.py`). Beside
it the same for chance (n = 1) and for the judge's own choice, which no reward can beat.

The best of n lies at most log n - (n - 1)/n nats from the model that drew the images (Stiennon et
al., arXiv 2009.01325, appendix G.3; an upper bound by Beirami et al., arXiv 2401.01879), so the
curve is a cheap look at what fine-tuning to that distance will do: where the judge falls while the
reward rises, the reward is over-optimised (Gao et al., arXiv 2210.10760).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from components.contracts.errors import DataError
from components.contracts.intervals import Estimate
from components.contracts.selection import selection_probabilities
from components.rewards.audit.resampling import Bootstrap

PerImage = Float[NDArray[np.float64], " m"]
PromptOf = Int[NDArray[np.int64], " m"]


@dataclass(frozen=True)
class Curve:
    """A figure of the shown image for n = 1, 2, ...; the first is that of a random image."""

    picked: tuple[Estimate, ...]
    """Where the reward chooses."""
    oracle: tuple[float, ...]
    """Where the judge's score chooses."""


@dataclass(frozen=True)
class BestOfN:
    """What the reward's choice is worth; gains are those of the largest n over a random image."""

    score: Curve
    """The judge's score."""
    correct: Curve
    """The judge's verdict, a share."""
    reward: Curve
    """The reward itself, in spreads of it within a prompt above a random image."""
    gain: Estimate
    """Of the judge's score, where the reward chooses."""
    oracle_gain: float
    """The same where the judge chooses."""
    captured: Estimate
    """Share of the judge's own gain that the reward's choice gets; 0 is chance, 1 the judge."""
    captured_correct: Estimate | None
    """The same of the verdict; None where the judge's own choice gains nothing."""
    peak: int
    """The n at which the judge's score is highest."""
    fall: Estimate
    """How far the judge's score falls from its peak to the largest n: the Goodhart gap."""

    @property
    def num_images(self) -> int:
        """The largest n."""
        return len(self.score.oracle)


def kl(n: int) -> float:
    """The bound on the divergence of the best of n from one image, in nats."""
    return log(n) - (n - 1) / n


def expected(
    chosen_by: PerImage, value: PerImage, prompt_of: PromptOf, largest: int
) -> Float[NDArray[np.float64], "p n"]:
    """Mean of `value` over the images of each prompt that `chosen_by` picks, for n = 1..largest.

    Worked: scores (3, 1, 2) and values (5, 7, 9) of one prompt. n = 1: the mean 7. n = 2: the
    subsets show the first image twice and the third once, (2 * 5 + 9) / 3 = 19/3. n = 3: 5.
    """
    prompts = np.unique(prompt_of)
    means = np.empty((len(prompts), largest))
    for row, prompt in enumerate(prompts):
        members = prompt_of == prompt
        for n in range(1, largest + 1):
            shown = selection_probabilities(chosen_by[members], n)
            means[row, n - 1] = shown @ value[members]
    return means


def best_of_n(
    reward: PerImage,
    score: PerImage,
    correct: PerImage,
    prompt_of: PromptOf,
    largest: int,
    bootstrap: Bootstrap,
) -> BestOfN:
    """The curves and what follows from them.

    Args:
        reward: in spreads within a prompt.
        score: the judge's.
        correct: the judge's verdict, 0 or 1.
        prompt_of: the prompt of each image.
        largest: n goes from 1 to it.
        bootstrap: of the prompts.

    Raises:
        DataError: the judge's own choice is worth no more than chance, so that there is nothing
            that a reward could get.
    """
    picked = {
        name: expected(reward, value, prompt_of, largest)
        for name, value in (("score", score), ("correct", correct), ("reward", reward))
    }
    oracle = {
        name: expected(score, value, prompt_of, largest)
        for name, value in (("score", score), ("correct", correct), ("reward", reward))
    }
    captured = _captured(picked["score"], oracle["score"], bootstrap)
    if captured is None:
        raise DataError(
            "the judge gives all images of a prompt the same score, for every prompt",
            allowed="a judge that can tell images of one prompt apart",
        )
    picked["reward"] = picked["reward"] - picked["reward"][:, :1]
    oracle["reward"] = oracle["reward"] - oracle["reward"][:, :1]
    means = picked["score"].mean(axis=0)
    peak = int(means.argmax())
    return BestOfN(
        **{name: _curve(picked[name], oracle[name], bootstrap) for name in picked},
        gain=bootstrap.mean(picked["score"][:, -1] - picked["score"][:, 0]),
        oracle_gain=float((oracle["score"][:, -1] - oracle["score"][:, 0]).mean()),
        captured=captured,
        captured_correct=_captured(picked["correct"], oracle["correct"], bootstrap),
        peak=peak + 1,
        fall=bootstrap.mean(picked["score"][:, peak] - picked["score"][:, -1]),
    )


def _captured(
    picked: Float[NDArray[np.float64], "p n"],
    oracle: Float[NDArray[np.float64], "p n"],
    bootstrap: Bootstrap,
) -> Estimate | None:
    """Gain of the one over gain of the other, each a mean over prompts."""
    return bootstrap.ratio(picked[:, -1] - picked[:, 0], oracle[:, -1] - oracle[:, 0])


def _curve(
    picked: Float[NDArray[np.float64], "p n"],
    oracle: Float[NDArray[np.float64], "p n"],
    bootstrap: Bootstrap,
) -> Curve:
    return Curve(
        tuple(bootstrap.mean(column) for column in picked.T),
        tuple(map(float, oracle.mean(axis=0))),
    )
