"""Iterative data smoothing: labels learn as well, on a slower clock than the model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def smoothed_labels(
    preference: Float[Tensor, " n"], margin: Float[Tensor, " n"], rate: float
) -> Float[Tensor, " n"]:
    """y after an epoch: a step of size `rate` towards what the model itself believes.

        y <- (1 - rate) y + rate sigmoid(margin)

    "Iterative data smoothing" (2401.16335): cross-entropy drives the scores of a rarely compared
    pair to infinity; a label that drifts towards the model's own belief stops that, while a pair
    that many comparisons agree on keeps its label, since the model agrees with it. That the step
    has this form and that `rate` is small is UNVERIFIED; the mechanism is the paper's.

    Worked: y = 1, margin 0, rate 0.1: 0.95. y = 1, margin log 3, rate 0.4: 0.6 + 0.3 = 0.9.
    """
    return (1 - rate) * preference + rate * torch.sigmoid(margin)
