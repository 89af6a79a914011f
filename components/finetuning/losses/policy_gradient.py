"""Policy-gradient losses of one denoising step, weighted by the probability ratio of new to old
policy.

The log-probabilities behind `log_ratio` are means over the latent's dimensions
(`log_prob_per_dim`): every published clip range of this family is meant for the mean. At SD 1.5's
16,384 dimensions a band of 1e-4 is about 1.6 nats of true density.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def clamped_ratio_loss(
    log_ratio: Float[Tensor, " b"], advantage: Float[Tensor, " b"], clip_range: float
) -> Float[Tensor, ""]:
    """DPOK's form: mean of `-A · clamp(ρ, 1-c, 1+c)`, ρ = exp(log_ratio).

    A bare clamp. Once ρ has left the band its gradient is zero for either sign of A, also where
    following it would bring ρ back (arXiv 2305.16381, the authors' code).

    Worked: c = 0.2, ρ = (2, 2, 0.5, 0.5), A = (1, -1, 1, -1). The ratios become
    (1.2, 1.2, 0.8, 0.8), the terms (-1.2, 1.2, -0.8, 0.8), the loss 0; no sample has a gradient.
    """
    ratio = log_ratio.exp()
    return -(advantage * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()


def ppo_loss(
    log_ratio: Float[Tensor, " b"], advantage: Float[Tensor, " b"], clip_range: float
) -> Float[Tensor, ""]:
    """PPO's pessimistic form: mean of `max(-A·ρ, -A·clamp(ρ, 1-c, 1+c))`, ρ = exp(log_ratio).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7; DDPO (arXiv 2305.13301) uses it per
    denoising step. The gradient vanishes only where the policy has already moved far enough in the
    wanted direction.

    Worked: c = 0.2, ρ = (2, 2, 0.5, 0.5), A = (1, -1, 1, -1). Unclipped terms (-2, 2, -0.5, 0.5),
    clipped ones (-1.2, 1.2, -0.8, 0.8); the larger of each is (-1.2, 2, -0.5, 0.8) and the loss
    0.275. Samples two and three keep their gradient.
    """
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(-advantage * ratio, -advantage * clipped).mean()


def clip_fraction(log_ratio: Float[Tensor, " b"], clip_range: float) -> Float[Tensor, ""]:
    """Share of samples in [0, 1] whose ratio has left the band `1 ± clip_range`.

    Worked: ρ = (2, 1.1, 1, 0.5) with a band of 0.2 gives 0.5.
    """
    return ((log_ratio.exp() - 1).abs() > clip_range).float().mean()


def score_function_loss(
    log_prob: Float[Tensor, " b"], advantage: Float[Tensor, " b"]
) -> Float[Tensor, ""]:
    """REINFORCE: mean of `-A · log p` (DDPO_SF, arXiv 2305.13301).

    Only for samples of the policy as it is. There its gradient is that of `ppo_loss`.

    Worked: log p = (-1, -3), A = (2, -1): terms (2, -3), mean -0.5; d/d log p = (-1, 0.5).
    """
    return -(advantage * log_prob).mean()


def ratio_figures(
    log_ratio: Float[Tensor, "*b"], clip_range: float | None = None
) -> dict[str, Tensor]:
    """Mean ratio, its largest |ρ - 1| (a guard wants 0 before the first update), and the share
    outside of the band, if there is one.

    Worked: ρ = (2, 1.1, 1, 0.5) with a band of 0.2: 1.15, 1 and 0.5.
    """
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    figures = {"ratio_mean": ratio.mean(), "ratio_deviation_max": (ratio - 1).abs().max()}
    if clip_range is not None:
        figures["clip_fraction"] = clip_fraction(log_ratio, clip_range)
    return figures


def regulated_log_ratio(
    log_ratio: Float[Tensor, " b"],
    mean: Float[Tensor, "b c h w"],
    mean_old: Float[Tensor, "b c h w"],
    std: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, " b"]:
    """GRPO-Guard's log-ratio: `(log ρ + mean((μ - μ_old)²) / (2 std²)) · std` (arXiv 2510.22319).

    For x = μ_old + std·z, log ρ per dimension is mean(z·Δ/std - Δ²/(2 std²)) with Δ = μ - μ_old:
    its mean lies below zero and its spread grows where std is small. Both are undone here, and what
    is left is mean(z·Δ).

    Args:
        log_ratio: of log-probabilities per dimension.
        mean, mean_old: of the step, under the policy and under the one that took it.
        std: of the step.

    Worked: one dimension, μ_old = 0, std = 0.5, z = 2, so x = 1. μ = 0.25: log ρ = 2·0.25/0.5 -
    0.0625/0.5 = 0.875, the bias 0.125, the result (0.875 + 0.125)·0.5 = 0.5 = z·Δ.
    """
    bias = (mean - mean_old).square().flatten(1).mean(1) / (2 * std.flatten().square())
    return (log_ratio + bias) * std.flatten()


def divergence_masked_loss(
    log_ratio: Float[Tensor, " b"],
    advantage: Float[Tensor, " b"],
    divergence: Float[Tensor, " b"],
    limit: float,
) -> Float[Tensor, ""]:
    """Flow-DPPO's form (arXiv 2606.11025): mean of `-A·ρ`, without the samples of `leaving`.

    Worked: ρ = (2, 2, 0.5, 2), A = (1, -1, -1, 1), D = (3, 3, 3, 1), limit 2. Samples one and three
    are far and leaving: what is left is (0, 2, 0, -2), and the loss 0. The gradient with respect to
    log ρ is (0, 0.5, 0, -0.5).
    """
    gone = leaving(log_ratio, advantage, divergence, limit)
    # Masked before exp: a ratio that has overflowed times zero is NaN, and so is its gradient.
    ratio = log_ratio.masked_fill(gone, -torch.inf).exp()
    return -(advantage * ratio).mean()


def leaving(
    log_ratio: Float[Tensor, " b"],
    advantage: Float[Tensor, " b"],
    divergence: Float[Tensor, " b"],
    limit: float,
) -> Bool[Tensor, " b"]:
    """Samples whose divergence has reached `limit` and that A pushes further: ρ > 1 where A > 0, or
    ρ < 1 where A < 0.

    Worked: ρ = (2, 0.5, 2), A = (1, 1, 1), D = (3, 3, 1) with a limit of 3: (True, False, False).
    """
    away = log_ratio.sign() * advantage.sign() > 0
    return (divergence >= limit) & away
