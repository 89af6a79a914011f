"""Losses on what was preferred: pairs (DPO, CPO), winners alone (DCO), good and bad (KTO).

A method of this family sees no probability. Its stand-in for the log-ratio log π_θ/π_ref of a
sample is the `gain`: the reference's denoising error minus the policy's, at the same noise, above 0
where the policy denoises the sample better. Methods with likelihoods (D3PO) put true log-ratios
there. Nothing here has a factor ½ or T: all constants are in `dpo_beta`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

Average = Literal["after_sigmoid", "before_sigmoid"]


def dpo_loss(
    gain_w: Float[Tensor, " b"],
    gain_l: Float[Tensor, " b"],
    dpo_beta: float,
    preference: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of `-log σ(β (g_w - g_l))`: Diffusion-DPO (2311.12908), NCP-DPO (2406.17636).

    Args:
        gain_w, gain_l: of winners and losers (or log-ratios).
        dpo_beta: β, above 0.
        preference: the share p of a win that each `_w` has, in [0, 1]: the term becomes
            `-p log σ(m) - (1 - p) log σ(-m)`, so that a tie (½) pulls m towards 0. None is 1 for
            all.

    At the reference every gain is 0 and the loss is log 2, whatever β is.

    Worked: β = 2, g_w = 0.5, g_l = -0.049306 give m = 1.098612 = log 3, σ(m) = 3/4 and the loss
    -log 0.75 = 0.287682. Its gradient by g_w is -β (1 - σ(m)) = -0.5, by g_l it is 0.5. As a tie:
    -½ log 0.75 - ½ log 0.25 = 0.836988.
    """
    return soft_preference_loss(dpo_beta * (gain_w - gain_l), preference)


def cpo_loss(
    error_w: Float[Tensor, " b"],
    error_l: Float[Tensor, " b"],
    dpo_beta: float,
    winner_weight: float,
    preference: Float[Tensor, " b"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of `-log σ(-β (e_w - e_l)) + λ e_w`: NCP-CPO (2406.17636); no reference.

    Args:
        error_w, error_l: denoising errors of winners and losers under the policy.
        dpo_beta: β, above 0.
        winner_weight: λ, 0 or above.
        preference: as in `dpo_loss`; λ then weighs the expected winner's error, p e_w + (1-p) e_l.

    Worked: β = 2, e_w = 1, e_l = 1.549306, λ = 0.1 give m = log 3, so 0.287682 + 0.1 = 0.387682;
    the gradient by e_w is β (1 - σ(m)) + λ = 0.6, by e_l it is -0.5.
    """
    loss = soft_preference_loss(-dpo_beta * (error_w - error_l), preference)
    if preference is None:
        return loss + winner_weight * error_w.mean()
    return loss + winner_weight * (preference * error_w + (1 - preference) * error_l).mean()


def soft_preference_loss(
    margin: Float[Tensor, " b"], preference: Float[Tensor, " b"] | None = None
) -> Float[Tensor, ""]:
    """Mean of `-p log σ(m) - (1 - p) log σ(-m)`; `preference` p is 1 where None.

    Worked: m = log 3, p = 0.75: -0.75 log 0.75 - 0.25 log 0.25 = 0.562335, its minimum over m.
    """
    if preference is None:
        return -logsigmoid(margin).mean()
    return -(preference * logsigmoid(margin) + (1 - preference) * logsigmoid(-margin)).mean()


def dco_loss(
    gain: Float[Tensor, " b"], dpo_beta: float, average: Average = "after_sigmoid"
) -> Float[Tensor, ""]:
    """Mean of `-log σ(β g)` over winners: Direct Consistency Optimization (2402.12004).

    DPO without losers. `before_sigmoid` is `-log σ(β · mean g)`: one gate for the batch in place of
    one for each sample.

    Worked: β = 1, g = (log 3, -log 3): after the sigmoid -½ (log 0.75 + log 0.25) = 0.836988 with
    gradients -½ · (0.25, 0.75); before it the mean gain is 0: log 2, gradients -½ · (0.5, 0.5).
    """
    return -logsigmoid(dpo_beta * (gain.mean() if average == "before_sigmoid" else gain)).mean()


def kto_loss(
    gain: Float[Tensor, " b"],
    desirable: Bool[Tensor, " b"],
    dpo_beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean of `w_y (1 - σ(y β (g - z)))`, y = ±1, z = max(0, mean g): Diffusion-KTO (2404.04465).

    At the reference the loss is ½ for weights of 1.

    Worked: β = 1, g = (log 3 + 0.5, 0.5 - log 3 + 0.2, 0.3), the first two desirable: the mean is
    0.5 = z, so y β (g - z) = (log 3, 0.2 - log 3, 0.2) and 1 - σ = (0.25, 0.710665, 0.450166); the
    mean is 0.470277. Its gradient by g is -y σ(1 - σ) / 3 = (-0.0625, -0.068540, 0.082506).
    """
    weight = torch.where(desirable, desirable_weight, undesirable_weight).to(gain)
    return (weight * (1 - (dpo_beta * kto_margin(gain, desirable)).sigmoid())).mean()


def kto_margin(gain: Float[Tensor, " b"], desirable: Bool[Tensor, " b"]) -> Float[Tensor, " b"]:
    """`y (g - z)`, y = ±1, z = max(0, mean g): above 0 where a sample's label is borne out.

    z, what the policy has gained on the whole batch, is a constant: no gradient flows through it.

    Worked: g = (1, 2, 3), the first two desirable: z = 2 and the margins are (-1, 0, -1).
    """
    baseline = gain.detach().mean().clamp_min(0)
    return torch.where(desirable, 1.0, -1.0).to(gain) * (gain - baseline)


def implicit_accuracy(margin: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Share of pairs in [0, 1] whose winner the implicit reward prefers; an even one counts half.

    Worked: margins (0.2, 0, -1, 3) give (1 + ½ + 0 + 1) / 4 = 0.625.
    """
    return ((margin > 0).float() + 0.5 * (margin == 0).float()).mean()
