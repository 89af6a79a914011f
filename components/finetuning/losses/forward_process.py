"""Losses on finished images that were noised again: no trajectory, no likelihood of a step.

All of them are built on how far a prediction at a noise level is from the truth. In which space
does not matter to more than a weight: a network output means x̂0 = a·x_t + b·output with a and b of
the level alone (a flow: 1 and -σ), so that an error of x̂0 is b times that of the output, and mixing
outputs is mixing what they mean.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.finetuning.losses.kl import prediction_kl

ERROR_FLOOR = 1e-5
"""Of the mean absolute error that NFT divides by (released code)."""
HUBER_EPSILON = 1e-10
"""AWM's released code: keeps the slope of a power finite at an error of 0."""

MatchingWeight = Literal["uniform", "noise", "generalised_huber"]


class ImplicitPredictions(NamedTuple):
    """Two policies around the old one, of which only the trained one is a network."""

    positive: Float[Tensor, "b c h w"]
    negative: Float[Tensor, "b c h w"]


def optimality_prob(advantage: Float[Tensor, " b"], limit: float) -> Float[Tensor, " b"]:
    """NFT's q = ½ + ½ clip(A / limit, -1, 1), in [0, 1]: how much an image counts as a good one.

    Worked: A = (-10, 0, 1, 10) with a limit of 5 gives (0, 0.5, 0.6, 1).
    """
    return 0.5 + 0.5 * (advantage / limit).clamp(-1, 1)


def implicit_predictions(
    x0_theta: Float[Tensor, "b c h w"], x0_old: Float[Tensor, "b c h w"], mix_beta: float
) -> ImplicitPredictions:
    """x̂0⁺ = β x̂0_θ + (1 - β) x̂0_old and x̂0⁻ = (1 + β) x̂0_old - β x̂0_θ, β = mix_beta.

    The negative policy is the positive one reflected at the old one (arXiv 2509.16117).

    Worked: x̂0_θ = 3, x̂0_old = 1, β = 0.5: positive 1.5 + 0.5 = 2, negative 1.5 - 1.5 = 0.
    """
    return ImplicitPredictions(
        mix_beta * x0_theta + (1 - mix_beta) * x0_old,
        (1 + mix_beta) * x0_old - mix_beta * x0_theta,
    )


def self_normalised_error(
    prediction: Float[Tensor, "b c h w"], x0: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """mean (x̂0 - x0)² over a detached mean |x̂0 - x0|, which is at least 1e-5; one value a sample.

    As large as the error itself at every noise level, where a square would let the noisiest
    dominate. At the floor the gradient fades with the error.

    Worked: errors (3, -1) have mean square 5 and mean size 2: 2.5, gradient (3/2, -1/2).
    """
    error = prediction - x0
    size = error.detach().abs().mean(dim=(1, 2, 3)).clamp_min(ERROR_FLOOR)
    return error.square().mean(dim=(1, 2, 3)) / size


def nft_loss(
    x0_theta: Float[Tensor, "b c h w"],
    x0_old: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    good: Float[Tensor, " b"],
    mix_beta: float,
) -> Float[Tensor, ""]:
    """Mean of `(q ℓ⁺ + (1 - q) ℓ⁻) / β`: DiffusionNFT (arXiv 2509.16117), q = `good`.

    ℓ± is the self-normalised error of the implicit predictions. Where θ is the old policy the
    gradient with respect to x̂0_θ is (2q - 1) times that of ℓ: towards what is good, away from what
    is bad, none at q = ½, whatever β.

    Worked: one number, x̂0_θ = 3, x̂0_old = 1, x0 = 4, β = 0.5, q = 0.75. Predictions 2 and 0,
    errors -2 and -4, ℓ⁺ = 4/2 = 2, ℓ⁻ = 16/4 = 4, loss (1.5 + 1) / 0.5 = 5. Gradient: ℓ⁺ has
    2·(-2)/2·β = -1, ℓ⁻ has 2·(-4)/4·(-β) = 1, together (-0.75 + 0.25) / 0.5 = -1.
    """
    mixed = implicit_predictions(x0_theta, x0_old, mix_beta)
    positive = self_normalised_error(mixed.positive, x0)
    negative = self_normalised_error(mixed.negative, x0)
    return ((good * positive + (1 - good) * negative) / mix_beta).mean()


def matching_log_prob(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b 1 1 1"],
    weight: MatchingWeight,
    power: float = 0.25,
) -> Float[Tensor, " b"]:
    """AWM's stand-in for the log-likelihood per dimension (arXiv 2509.25050), one value a sample.

    With e = mean (prediction - target)² and t the share of noise in x_t:
    uniform -e; noise -t·e; generalised_huber -t·((e + 1e-10)^p - 1e-10^p) / p, which grows as the
    2p-th power of the error's size, so that images far from what the model expects pull less.

    Worked: errors (2, 2), t = 0.5, p = 0.5: e = 4; uniform -4, noise -2, generalised_huber
    -0.5 · (2 - 1e-5) / 0.5 = -1.99999.
    """
    error = prediction_kl(prediction, target)
    if weight == "uniform":
        return -error
    share = noise.flatten()
    if weight == "noise":
        return -share * error
    return -share * ((error + HUBER_EPSILON).pow(power) - HUBER_EPSILON**power) / power


class GroupPreference(NamedTuple):
    """DGPO's loss and how many groups it has right."""

    loss: Float[Tensor, ""]
    implicit_acc: Float[Tensor, ""]
    """Share of groups that the implicit reward prefers as the advantages do; ½ for a tie."""


def group_preference_loss(
    error: Float[Tensor, "b k"],
    reference_error: Float[Tensor, "b k"],
    advantage: Float[Tensor, " b"],
    group: Int64[Tensor, " b"],
    dgpo_beta: float,
) -> GroupPreference:
    """DGPO (arXiv 2510.08425): mean over groups and their k noise levels of `-log σ(-s) / β`.

    s = β/G · Σ_i A_i (e_i - e_i,ref) over the G images of a group: the good ones' errors must fall
    against the reference's, the bad ones' rise, and a group that is right by far counts no more.
    Its gradient is the released code's, the mean of A·e with each group's detached weight σ(s). All
    images of a group must have seen the same noise, else s compares noise with noise.

    Worked: one group, one level, A = (1, -1), e = (1, 2), e_ref = (2, 2), β = 2. s = 2/2 · (1·(-1)
    + 0) = -1, loss log(1 + e^-1) / 2 = 0.156631, gradients σ(-1)/2 · (1, -1) = (0.134471,
    -0.134471). s < 0: it has the group right.
    """
    places = group.unique(return_inverse=True)[1]
    count = torch.bincount(places)
    terms = dgpo_beta * advantage[:, None] * (error - reference_error)
    sums = terms.new_zeros((len(count), terms.shape[1])).index_add(0, places, terms)
    scores = sums / count[:, None]
    right = (scores < 0).float() + 0.5 * (scores == 0).float()
    return GroupPreference(torch.nn.functional.softplus(scores).mean() / dgpo_beta, right.mean())


def gone_far(
    log_ratio: Float[Tensor, "*b"], advantage: Float[Tensor, "*b"], clip_range: float
) -> Bool[Tensor, "*b"]:
    """Which samples have left the band `1 ± clip_range` in the direction that A wants.

    Worked: a band of 0.2, ρ = (2, 2, 0.5, 0.5), A = (1, -1, 1, -1): (True, False, False, True).
    """
    ratio = log_ratio.exp()
    return torch.where(advantage > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)
