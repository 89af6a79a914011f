"""Reward-weighted denoising: DPOK's supervised baseline and its two ways to stay near the base."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from components.finetuning.losses.kl import prediction_kl


class DataWeights(NamedTuple):
    """Weights of samples, all >= 0, and how many had to be clipped to get there."""

    weights: Float[Tensor, " b"]
    num_clipped: Int[Tensor, ""]


def weighted_denoising_loss(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
) -> Float[Tensor, ""]:
    """Mean over samples of `w · mean((target - prediction)²)`, the weighted denoising loss.

    arXiv 2305.16381, supervised baseline; Lee et al. (arXiv 2302.12192). A negative weight pushes
    away from its sample without bound.

    Worked: two samples with squared errors (mean over pixels) 4 and 1 and weights 0.5 and 2: (2 +
    2)/2 = 2.
    """
    return (weight * prediction_kl(prediction, target)).mean()


def data_weights(reward: Float[Tensor, " b"], kl_weight: float) -> DataWeights:
    """KL-D: weights `max(r + γ, 0)`, γ = kl_weight.

    Adding γ to every weight is adding γ times the denoising loss on the base model's own samples,
    whose minimum is the base model. A negative weight would undo that, so it is clipped at zero and
    counted.

    Worked: r = (-2, -0.5, 1), γ = 1 give weights (0, 0.5, 2), one of them clipped.
    """
    shifted = reward + kl_weight
    return DataWeights(shifted.clamp_min(0), (shifted < 0).sum())


def output_anchored_loss(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    reference: Float[Tensor, "b c h w"],
    weight: Float[Tensor, " b"],
    kl_weight: float,
) -> Float[Tensor, ""]:
    """KL-O: mean of `w · mean((target - prediction)²) + γ · mean((reference - prediction)²)`, γ =
    kl_weight.

    Worked: one sample, weight 2, squared error 3 to the target and 4 to the reference, γ = 0.5:
    2 · 3 + 0.5 · 4 = 8.
    """
    anchor = prediction_kl(prediction, reference).mean()
    return weighted_denoising_loss(prediction, target, weight) + kl_weight * anchor
