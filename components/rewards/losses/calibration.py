"""How sure a reward model may be of itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def fit_scale(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    low: float = 1e-3,
    high: float = 1e3,
) -> float:
    """The factor s that minimises the Bradley-Terry loss of `s * margin`.

    Temperature scaling (1706.04599, section 4.2): probabilities become honest, every order stays.
    The loss is convex in s and its derivative, mean((sigmoid(s m) - y) m), grows with s, so halving
    the interval finds the root; where there is none in [low, high], the nearer end is returned.

    One pair with m = 0.5 preferred by three people of four: sigmoid(s / 2) = 3/4, s = 2 log 3.
    """
    margin, target = margin.double(), preference.double()
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((torch.sigmoid(middle * margin) - target) * margin).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low + high) / 2


def starting_scale(margin: Float[Tensor, " n"], preference: Float[Tensor, " n"]) -> float:
    """The factor, at most 1, that makes a backbone less sure of itself before it learns.

    `fit_scale`, but never so small that the margins' root mean square falls below 1: one that knows
    nothing of the question would begin with no opinion at all, and what labels are held against in
    log-odds (adaptive margins, reliabilities) would find nothing there.

    Worked: margins 8, 8, 8, 8 with y = 1, 1, 1, 0: sigmoid(8 s) = 3/4, s = log 3 / 8 = 0.1373; with
    y = 1, 1, 0, 0 the fit is 0 and 1 / 8 is returned; margins below 1 stay as they are.
    """
    spread = float(margin.double().square().mean().sqrt())
    if spread <= 1:
        return 1.0
    return min(1.0, max(fit_scale(margin, preference), 1 / spread))
