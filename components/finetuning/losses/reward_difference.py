"""Reward differences as regression targets: PRDP, REBEL and CRD.

For the policy that maximises E[r] - τ·KL(p ‖ p_ref) the reward of a sample is τ·log(p / p_ref) plus
a number that depends on the prompt alone. In the difference of two samples of one prompt, and in a
sample minus the mean of its prompt, that number is gone: what is left can be regressed.

    PRDP (2402.08714)   pairs, log-ratios of trajectories against the reference, clipped by step
    REBEL (2404.16767)  pairs, log-ratios of trajectories against the policy that drew them
    CRD (2603.14128)    group means, differences of denoising errors in the place of log-ratios

Log-ratios of single steps are means over the latent's dimensions (`log_prob_per_dim`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.finetuning.losses.advantages import group_centred

StepReduction = Literal["sum", "mean"]


class Pairs(NamedTuple):
    """Pairs of samples of the same group, each unordered pair once."""

    first: Int64[Tensor, " p"]
    """The sample with the higher reward; in a tie, the one that comes first."""
    second: Int64[Tensor, " p"]
    weight: Float[Tensor, " p"]
    """1 / (pairs of its group · groups with a pair): the sum of weighted values is their mean over
    the pairs of each group, then over groups."""


def pairs_of(reward: Float[Tensor, " b"], group: Int64[Tensor, " b"], *, ties: bool) -> Pairs:
    """All pairs of samples of the same group; those of equal reward only with `ties`.

    A group without a pair does not count in the mean over groups.

    Worked: rewards (3, 1, 3 | 5, 2) in groups (0, 0, 0 | 1, 1). Without ties (0, 1), (2, 1) and
    (3, 4) with weights ¼, ¼, ½; with ties also (0, 2), and weights ⅙, ⅙, ⅙, ½.
    """
    # Side by side by group, and then each sample with the one k places behind it: every pair once,
    # without a matrix of all samples.
    order = group.argsort(stable=True)
    largest = int(torch.bincount(group).max())
    left = torch.cat([order[: len(order) - k] for k in range(1, largest)] + [order[:0]])
    right = torch.cat([order[k:] for k in range(1, largest)] + [order[:0]])
    wanted = group[left] == group[right]
    if not ties:
        wanted = wanted & (reward[left] != reward[right])
    left, right = left[wanted], right[wanted]
    swap = reward[right] > reward[left]
    first, second = torch.where(swap, right, left), torch.where(swap, left, right)
    counts = torch.bincount(group[first])
    weight = 1 / (counts[group[first]] * (counts > 0).sum()).to(reward)
    return Pairs(first, second, weight)


def over_steps(value: Float[Tensor, "b n"], reduction: StepReduction) -> Float[Tensor, " b"]:
    """Sum or mean over the steps of each trajectory.

    Worked: (0.3, 0.1) gives 0.4 as a sum and 0.2 as a mean.
    """
    return value.sum(1) if reduction == "sum" else value.mean(1)


def clipped_by_step(
    log_ratio: Float[Tensor, "b n"], log_ratio_old: Float[Tensor, "b n"], clip_range: float
) -> Float[Tensor, "b n"]:
    """Each step's log-ratio to the reference kept within `clip_range` of the one it was drawn with.

    PRDP's stepwise clipping; no gradient where it is at work.

    Worked: ℓ = (0.3, 0.1), ℓ_old = (0.1, 0.1) and ε = 0.1 give (0.2, 0.1).
    """
    return torch.clamp(log_ratio, log_ratio_old - clip_range, log_ratio_old + clip_range)


def residual(
    log_ratio: Float[Tensor, " b"],
    reward: Float[Tensor, " b"],
    pairs: Pairs,
    regression_beta: float,
) -> Float[Tensor, " p"]:
    """`(R̂_i - R̂_j) - (r_i - r_j)/β` of each pair: how far its reward difference is from the one
    that log-ratios R̂ predict.

    Worked: R̂ = (0.4, -0.2), r = (3, 1), β = 2: 0.6 - 1 = -0.4.
    """
    first, second, _ = pairs
    predicted = log_ratio[first] - log_ratio[second]
    return predicted - (reward[first] - reward[second]) / regression_beta


def prdp_loss(
    log_ratio: Float[Tensor, "b n"],
    log_ratio_old: Float[Tensor, "b n"],
    reward: Float[Tensor, " b"],
    group: Int64[Tensor, " b"],
    regression_beta: float,
    clip_range: float | None,
    reduction: StepReduction,
) -> Float[Tensor, ""]:
    """Mean over pairs, then over prompts, of the larger of two squared residuals: that of ℓ, and
    that of ℓ clipped by step (PRDP, 2402.08714, its proximal objective).

    Args:
        log_ratio: ℓ = log p_θ - log p_ref of each step, per dimension; the graph is here.
        log_ratio_old: the same of the policy that drew.
        reward: r of each trajectory.
        group: its prompt.
        regression_beta: β.
        clip_range: ε; None leaves the clipped branch out.
        reduction: of steps.

    Where the clipped residual is the larger one, only steps inside of the band have a gradient; a
    policy that went too far has the unclipped one, which leads back. At ℓ = 0 the loss is the mean
    of (Δ/β)². Pairs of equal rewards are dropped.

    Worked: one prompt, ℓ = ((0.3, 0.1), (-0.2, 0)), ℓ_old = ((0.1, 0.1), (0, 0)), β = 2, ε = 0.1,
    sum over steps. Clipped ((0.2, 0.1), (-0.1, 0)); R̂ = (0.4, -0.2), clipped (0.3, -0.1).
    With r = (3, 1) the residuals are 0.6 - 1 and 0.4 - 1: the loss is (-0.6)² = 0.36, its gradient
    ((0, -1.2), (0, 1.2)). With r = (1.2, 1) they are 0.5 and 0.3: the loss is 0.25, its gradient
    ((1, 1), (-1, -1)).
    """
    pairs = pairs_of(reward, group, ties=False)

    def squares(log_ratio: Tensor) -> Tensor:
        total = over_steps(log_ratio, reduction)
        return residual(total, reward, pairs, regression_beta).square()

    worst = squares(log_ratio)
    if clip_range is not None:
        clipped = clipped_by_step(log_ratio, log_ratio_old, clip_range)
        worst = torch.maximum(worst, squares(clipped))
    return (pairs.weight * worst).sum()


def rebel_loss(
    log_ratio: Float[Tensor, " b"],
    reward: Float[Tensor, " b"],
    group: Int64[Tensor, " b"],
    regression_beta: float,
) -> Float[Tensor, ""]:
    """Mean over pairs, then over prompts, of `(β (R_i - R_j) - (r_i - r_j))²` (REBEL, 2404.16767,
    its equation of the regression, β = 1/η).

    R is the log-ratio of a trajectory to the policy that drew it. Unlike in PRDP, pairs of equal
    rewards stay, and β multiplies the log-ratios: the loss is β² times that of `residual`.

    Worked: R = (0.4, -0.2), r = (3, 1), β = 2: (1.2 - 2)² = 0.64, with gradient (-3.2, 3.2).
    """
    pairs = pairs_of(reward, group, ties=True)
    squares = residual(log_ratio, reward, pairs, regression_beta).square()
    return regression_beta**2 * (pairs.weight * squares).sum()


def explained(
    log_ratio: Float[Tensor, " b"],
    reward: Float[Tensor, " b"],
    group: Int64[Tensor, " b"],
    regression_beta: float,
) -> Float[Tensor, ""]:
    """Share of the reward differences that log-ratios account for: 0 at the start, 1 at the optimum
    p_ref·exp(r/τ)/Z, below 0 where they say the opposite.

    Worked: R̂ = (0.4, -0.2), r = (3, 1), β = 2: 1 - 0.4² / 1² = 0.84.
    """
    pairs = pairs_of(reward, group, ties=False)
    left = pairs.weight * residual(log_ratio, reward, pairs, regression_beta).square()
    total = pairs.weight * residual(torch.zeros_like(reward), reward, pairs, 1.0).square()
    return 1 - regression_beta**2 * left.sum() / total.sum()


def pair_accuracy(
    implicit: Float[Tensor, " b"], reward: Float[Tensor, " b"], group: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Share in [0, 1] of pairs that an implicit reward orders as the reward does; an even one
    counts half.

    Worked: implicit rewards (1, 2, 2 | 0, 4), rewards (3, 1, 2 | 5, 2): of (0, 1), (0, 2), (2, 1)
    the first two are wrong and one is even, ½ of 3; (3, 4) is wrong: (⅙ + 0)/2 = 0.083333.
    """
    pairs = pairs_of(reward, group, ties=False)
    gap = implicit[pairs.first] - implicit[pairs.second]
    return (pairs.weight * ((gap > 0).float() + 0.5 * (gap == 0).float())).sum()


def step_clip_fraction(
    log_ratio: Float[Tensor, "b n"], log_ratio_old: Float[Tensor, "b n"], clip_range: float
) -> Float[Tensor, ""]:
    """Share in [0, 1] of steps whose log-ratio has left the band.

    Worked: (0.3, 0.1, -0.2, 0) against (0.1, 0.1, 0, 0) with ε = 0.1: 0.5.
    """
    return ((log_ratio - log_ratio_old).abs() > clip_range).float().mean()


def crd_loss(
    implicit: Float[Tensor, " b"],
    reward: Float[Tensor, " b"],
    group: Int64[Tensor, " b"],
    regression_beta: float,
) -> Float[Tensor, ""]:
    """Mean of `(β (r̂ - mean r̂) - (r - mean r))²`, means over the group (CRD, 2603.14128).

    Whether a gradient flows through the mean of r̂ makes no difference: what is multiplied with it
    adds up to zero in each group. The mean over the pairs of a group of n of
    `(β (r̂_i - r̂_j) - (r_i - r_j))²` is 2n/(n - 1) times this.

    Worked: r̂ = (0.4, -0.2), r = (3, 1), β = 2: centred (0.3, -0.3) and (1, -1), so (0.6 - 1)² and
    (-0.6 + 1)², mean 0.16; gradient (-0.8, 0.8).
    """
    centred = regression_beta * group_centred(implicit, group)
    return (centred - group_centred(reward, group)).square().mean()


def adaptive_kl_weight(
    bounded: Float[Tensor, " b"], kl_weight: float, kl_floor: float
) -> Float[Tensor, " b"]:
    """`floor + r·(weight - floor)` for r in [0, 1]: the better a sample, the more it is held to the
    reference (CRD, "reward-adaptive KL").

    Worked: r = (0, 0.25, 1), a weight of 0.1 and a floor of 0.02: (0.02, 0.04, 0.1).
    """
    return kl_floor + bounded * (kl_weight - kl_floor)
