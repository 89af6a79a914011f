"""How far one denoising step of the policy is from the reference's, in the two readings of DPOK."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def prediction_kl(
    prediction: Float[Tensor, "b c h w"], reference: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Mean square of the difference of two (guided) network outputs, one value a sample, >= 0.

    What DPOK's code adds to the loss. The exact KL of a step is κ_t times the *sum* of these
    squares with κ_t = (∂μ/∂ε)² / (2σ_t²); on Stable Diffusion's schedule κ_t is nearly constant but
    for the last one or two steps, so this form differs from `exact_kl` by a constant factor and by
    caring less for those steps.

    Worked: predictions (1, 2, 3, 4) against a reference of (1, 2, 3, 2) give (0+0+0+4)/4 = 1.
    """
    return (prediction - reference).square().mean(dim=(1, 2, 3))


def exact_kl(
    mean: Float[Tensor, "b c h w"],
    reference_mean: Float[Tensor, "b c h w"],
    std: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, " b"]:
    """KL(N(μ, σ²) ‖ N(μ_ref, σ²)) divided by the number of dimensions, one value a sample, >= 0.

    DPOK's text (arXiv 2305.16381, the KL term of its objective): ‖μ - μ_ref‖² / (2σ²). It is
    divided by c·h·w because the log-probabilities of the policy-gradient term are: only then is
    kl_weight / reward_weight the temperature of the optimum p_ref · exp(r / temperature) / Z.

    Worked: μ - μ_ref = (2, 0, 0, 0) and σ = 0.5 give 4 / (2 · 0.25) = 8 nats, 2 per dimension.
    """
    return ((mean - reference_mean).square() / (2 * std.square())).mean(dim=(1, 2, 3))


def step_weighted_kl(
    mean: Float[Tensor, "b c h w"],
    reference_mean: Float[Tensor, "b c h w"],
    std: Float[Tensor, "b 1 1 1"],
    step_size: Float[Tensor, "b 1 1 1"],
) -> Float[Tensor, " b"]:
    """`exact_kl` times the length of the step: what Flow-GRPO's code adds (arXiv 2505.05470).

    There std is σ_t·√(-dt) and the code divides by 2σ_t², so that its term is the KL of the step
    times `step_size` = -dt. A sum over steps is then an integral over the noise level, which does
    not grow with the number of steps; the published weights belong to it.

    Worked: μ - μ_ref = (2, 0, 0, 0), std = 0.5 and a step of 0.1: 2 nats per dimension times 0.1 =
    0.2; with σ_t² = 0.25/0.1 = 2.5 the code's mean(4, 0, 0, 0) / 5 is 0.2 too.
    """
    return exact_kl(mean, reference_mean, std) * step_size.flatten()
