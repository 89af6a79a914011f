"""How good a reward model is on pairs that it has not seen. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.contracts.intervals import Z_95, Estimate, wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Share of decided pairs whose preferred image has the higher score, and its interval."""

    value: float
    low: float
    high: float
    count: int
    """Decided pairs, ties left out."""


def pair_accuracy(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    group: Int[Tensor, " n"],
) -> Accuracy:
    """Accuracy over decided pairs with a 95 % Wilson interval that knows about groups.

    Args:
        margin: score_a - score_b; 0 counts as half right.
        preference: 1 where a was preferred, 0 where b was, 0.5 for a tie (left out).
        group: which prompt a pair belongs to. Pairs of one prompt share images and are right or
            wrong together, so they count for fewer than as many pairs of different prompts
            (`effective_count`).

    Raises:
        ValueError: no pair is decided.
    """
    decided = preference != 0.5
    if not decided.any():
        raise ValueError("no decided pair")
    correct = _correct(margin[decided], preference[decided])
    value = float(correct.mean())
    low, high = wilson_interval(value, effective_count(correct, group[decided]))
    return Accuracy(value, low, high, len(correct))


def _correct(margin: Float[Tensor, " n"], preference: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 where the preferred image of a decided pair scores higher, 0 where lower, else 1/2."""
    right = torch.where(preference > 0.5, margin, -margin)
    return ((right.sign() + 1) / 2).double()


def paired_gain(
    margin: Float[Tensor, " n"],
    before: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    group: Int[Tensor, " n"],
) -> Estimate:
    """By how much a model is right more often than another one on the same pairs.

    With d = right now - right before of each decided pair, the 95 % interval is 1.96 standard
    errors of mean d when whole groups are drawn:

        variance = G / (G - 1) * sum over groups of (sum of (d - mean d))^2 / n^2

    It is much tighter than the intervals of both accuracies: most pairs are right with both models
    or wrong with both.

    Worked: two groups of two, d = 1 0 | 0 0: mean 1/4, group sums 1/2 and -1/2, variance
    2 * (1/4 + 1/4) / 16 = 1/16, interval 1/4 -+ 0.49.

    Args:
        margin: score_a - score_b by the model.
        before: the same by the other one.
        preference, group: as in `pair_accuracy`.

    Raises:
        ValueError: no pair is decided.
    """
    decided = preference != 0.5
    if not decided.any():
        raise ValueError("no decided pair")
    now, then = (_correct(side[decided], preference[decided]) for side in (margin, before))
    change = now - then
    mean, sums = float(change.mean()), group_sums(change - change.mean(), group[decided])
    if len(sums) < 2:
        return Estimate(mean, -1.0, 1.0)
    correction = len(sums) / (len(sums) - 1)
    half = Z_95 * math.sqrt(correction * float((sums**2).sum())) / len(change)
    return Estimate(mean, max(-1.0, mean - half), min(1.0, mean + half))


def group_sums(values: Float[Tensor, " n"], group: Int[Tensor, " n"]) -> Float[Tensor, " g"]:
    """The sum of the values of each group."""
    _, index = group.unique(return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, dtype=values.dtype, device=values.device)
    return sums.index_add(0, index, values)


def effective_count(correct: Float[Tensor, " n"], group: Int[Tensor, " n"]) -> float:
    """As how many independent pairs these count: n over Kish's design effect.

    The design effect is the variance of the mean when whole groups are drawn, over the binomial
    one, and at least 1:

        four pairs, right right | wrong wrong, two groups:  residuals +.5 +.5 | -.5 -.5, group sums
        1 and -1, variance (1 + 1) / 4^2 = 1/8 against .25 / 4 = 1/16: effect 2, count 2.
    """
    count = len(correct)
    residual = correct - correct.mean()
    binomial = float((residual**2).sum())
    if binomial == 0:
        return float(count)
    return count / max(1.0, float((group_sums(residual, group) ** 2).sum()) / binomial)


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs whose predicted probability fell into one tenth of [0, 1]."""

    predicted: float
    """Mean predicted probability that a is preferred."""
    observed: float
    """Share in which a was preferred; a tie counts one half, as in training."""
    low: float
    """Of the 95 % interval of `observed`."""
    high: float
    count: int


def calibration(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    group: Int[Tensor, " n"],
    num_bins: int = 10,
) -> tuple[list[CalibrationBin], float]:
    """Reliability bins without empty ones, and the expected calibration error (1706.04599, 3).

    Arguments as those of `pair_accuracy`, whose interval the bins have.
    """
    predicted = torch.sigmoid(margin.double())
    bins: list[CalibrationBin] = []
    place = (predicted * num_bins).long().clamp_max(num_bins - 1)
    for number in range(num_bins):
        inside = place == number
        if inside.any():
            said = preference[inside].double()
            observed = float(said.mean())
            low, high = wilson_interval(observed, effective_count(said, group[inside]))
            bins.append(
                CalibrationBin(
                    float(predicted[inside].mean()), observed, low, high, int(inside.sum())
                )
            )
    error = sum(abs(found.predicted - found.observed) * found.count for found in bins)
    return bins, error / len(margin)


@dataclass(frozen=True)
class MarginBin:
    """Held-out pairs of which the model is about as sure."""

    low: float
    """Smallest |score_a - score_b|, in log-odds."""
    high: float
    """Largest."""
    accuracy: Accuracy


def accuracy_by_margin(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    group: Int[Tensor, " n"],
    num_bins: int = 4,
) -> list[MarginBin]:
    """Accuracy of the decided pairs in bins of equal size, from the least sure to the surest.

    A model that knows what it does not know is near 1/2 in the first and near 1 in the last.
    """
    decided = (preference != 0.5).nonzero()[:, 0]
    order = decided[margin[decided].abs().argsort(stable=True)]
    parts = [part for part in order.tensor_split(num_bins) if len(part)]
    return [
        MarginBin(
            float(margin[part].abs().min()),
            float(margin[part].abs().max()),
            pair_accuracy(margin[part], preference[part], group[part]),
        )
        for part in parts
    ]


@dataclass(frozen=True)
class Saturation:
    """Whether scores have run away: a reward that is always sure has no gradient left to give."""

    share: float
    """Of pairs with a predicted probability below 0.01 or above 0.99."""
    accuracy: float | None
    """Of those pairs that are decided; None without any."""


def saturation(
    margin: Float[Tensor, " n"], preference: Float[Tensor, " n"], certain: float = 0.99
) -> Saturation:
    """How many pairs the model is certain about, and how often rightly.

    Worked: margins 5, -5, 1 (P = 0.993, 0.007, 0.73) with y = 1, 1, 1: share 2/3, accuracy 1/2.
    """
    sure = torch.sigmoid(margin.double().abs()) > certain
    decided = sure & (preference != 0.5)
    right = (margin > 0) == (preference > 0.5)
    accuracy = float(right[decided].double().mean()) if decided.any() else None
    return Saturation(float(sure.double().mean()), accuracy)
