"""Losses on ratings: one picture judged on its own, as good or bad or on a scale."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def squared_error_loss(
    score: Float[Tensor, " n"], label: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """(label - score)^2 of each picture: how Lee et al. (2302.12192) learn from good and bad,
    section 3.2.

    Worked: score 0.25, label 1: 0.5625.
    """
    return (label - score) ** 2


def binary_loss(
    score: Float[Tensor, " n"], label: Float[Tensor, " n"], threshold: Float[Tensor, ""]
) -> Float[Tensor, " n"]:
    """Cross-entropy of good (label 1) and bad (0) for each picture, in nats.

        P(good) = sigmoid(score - threshold)

    The threshold is learnt: where "good" begins is a habit of the people, and must not push every
    score up or down. A label between 0 and 1 is a share of people.

    Worked: score - threshold = log 3: good 0.2877, bad 1.3863.
    """
    return F.binary_cross_entropy_with_logits(score - threshold, label, reduction="none")


def ordinal_loss(
    score: Float[Tensor, " n"], level: Int64[Tensor, " n"], thresholds: Float[Tensor, " k"]
) -> Float[Tensor, " n"]:
    """Cross-entropy of a level 0..k of a Likert scale for each picture, in nats.

        P(level <= j) = sigmoid(thresholds_j - score)

    The proportional-odds model (McCullagh, "Regression models for ordinal data", 1980): the steps
    of a scale have an order and no width, so how far 4 is from 5 is learnt. With one threshold it
    is `binary_loss`.

    Args:
        score: of each picture.
        level: given by people, 0 is worst.
        thresholds: rising, k for k + 1 levels; see `rising`.

    Worked: thresholds -log 3, log 3 and score 0: P = 1/4, 1/2, 1/4; level 1 costs log 2 = 0.6931
    and the others log 4 = 1.3863.
    """
    low, high = _edges(score, level, thresholds)
    # log(sigmoid(high) - sigmoid(low)), exact where both are far out on one side.
    return -(F.logsigmoid(high) + F.logsigmoid(-low) + torch.log1p(-torch.exp(low - high)))


def rising(steps: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Thresholds that rise whatever their parameters are: the first as it is, then positive steps.

    Worked: (0, 0, 0) gives 0, log 2, 2 log 2, since softplus(0) = log 2.
    """
    return torch.cat([steps[:1], F.softplus(steps[1:])]).cumsum(0)


def _edges(score: Tensor, level: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    far = thresholds.new_tensor([1e4])
    edges = torch.cat([-far, thresholds, far])
    return edges[level] - score, edges[level + 1] - score
