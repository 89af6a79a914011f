"""How badly a network denoises finished samples: the stand-in for a likelihood that every method on
preferences (Diffusion-DPO and what came after) is built on.

    latent        mean over c, h, w of (prediction - target)², target = what a perfect network says
    perceptual    PL of NCP (2406.17636): the same mean of squares between features f of two latents
                  x_{t-1}, one stepped to with the prediction and one with the truth

f is the downsampling stack of the frozen base at time t' = max(t - 1, 0), in fp32: differences of
x_{t-1} are about a hundredth of those of ε. The step is DDPM's (2006.11239, eq. 7) on the schedule
of training, whose neighbours are one timestep apart, however far apart the sampler's own are;
policy, reference and truth share its noise z. At t = 0 it leads nowhere, as in the authors' code,
and PL is 0. Predictions are without guidance, as in training: a guided one is no estimate of the
noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from components.diffusion import Adapter, Conditioning, LatentGaussian, NoiseLevel, Policy
from components.diffusion.noise import NoiseSchedule
from components.finetuning.algorithms.preference_settings import ErrorKind, LevelSource
from components.finetuning.batches import PreferencePairs

ErrorOf = Callable[[Tensor], Tensor]
"""The error [b] of a network output [b c h w]."""


@dataclass(frozen=True)
class Noised:
    """Finished samples at a noise level: what the network is asked to denoise."""

    x_t: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    """What a perfect network would say."""
    z: Float[Tensor, "b c h w"]
    """Noise of the step to x_{t-1}."""
    level: NoiseLevel
    conditioning: Conditioning
    """Without guidance."""

    def __len__(self) -> int:
        return len(self.x_t)

    def __getitem__(self, rows: slice) -> Noised:
        return Noised(
            self.x_t[rows],
            self.target[rows],
            self.z[rows],
            self.level[rows],
            self.conditioning[rows],
        )


class Errors(NamedTuple):
    """Errors of the policy, with their graph, and of the reference at the very same noise."""

    policy: Float[Tensor, " b"]
    reference: Float[Tensor, " b"]
    kl: Float[Tensor, " b"]
    """Mean square of the difference of their predictions."""

    @property
    def gain(self) -> Float[Tensor, " b"]:
        """The reference's error minus the policy's: the implicit log-ratio, up to a constant."""
        return self.reference - self.policy

    def halves(self) -> tuple[Errors, Errors]:
        """Winners and losers, where one batch holds first the ones, then the others."""
        half = len(self.policy) // 2
        first, second = (Errors(*(part[rows] for part in self)) for rows in _halves(half))
        return first, second


def noised(
    policy: Policy,
    x0: Float[Tensor, "b c h w"],
    conditioning: Conditioning,
    generator: torch.Generator,
    *,
    source: LevelSource,
    copies: int = 1,
) -> Noised:
    """Bring samples to random noise levels.

    Args:
        policy: whose noise levels.
        x0: the samples; with `copies` 2 the winners of all pairs, then their losers.
        conditioning: one row each.
        generator: a CPU generator of levels, noise and z.
        source: where levels are drawn from: the sampler's steps or all of training.
        copies: parts of the batch that share levels, noise and z.
    """
    count = len(x0) // copies
    level = policy.sampler.draw_level(count, generator, source)
    shape = (count, *x0.shape[1:])
    noise = torch.randn(shape, generator=generator).to(x0.device).repeat(copies, 1, 1, 1)
    z = torch.randn(shape, generator=generator).to(x0.device).repeat(copies, 1, 1, 1)
    level = level[torch.arange(count, device=level.timestep.device).repeat(copies)]
    return Noised(
        level.add_noise(x0, noise),
        level.target(x0, noise),
        z,
        level,
        conditioning.without_guidance(),
    )


def noised_pairs(
    policy: Policy, batch: PreferencePairs, generator: torch.Generator, source: LevelSource
) -> Noised:
    """Winners, then losers; the two of a pair share level, noise and z."""
    x0 = torch.cat([batch.x0_w, batch.x0_l])
    rows = torch.arange(len(batch)).repeat(2)
    return noised(policy, x0, batch.conditioning[rows], generator, source=source, copies=2)


def errors(
    policy: Policy, batch: Noised, kind: ErrorKind, reference: Adapter = "reference"
) -> Errors:
    """Errors of policy and reference; the graph is that of the policy's forward pass.

    Raises:
        SettingsError: `perceptual` on a base that is no U-Net.
    """
    return _errors(policy, batch, kind, reference, lambda function: function())


def _errors(
    policy: Policy,
    batch: Noised,
    kind: ErrorKind,
    reference: Adapter,
    call: Callable[[Callable[[], tuple[Tensor, Tensor]]], tuple[Tensor, Tensor]],
) -> Errors:
    """`call` decides how the part with a graph is computed."""
    error_of = measure(policy, batch, kind)
    with torch.no_grad():
        anchored = policy.predict_at(batch.x_t, batch.level, batch.conditioning, reference)
        reference_error = error_of(anchored)

    def trained() -> tuple[Tensor, Tensor]:
        prediction = policy.predict_at(batch.x_t, batch.level, batch.conditioning)
        return error_of(prediction), latent_error(prediction.detach(), anchored)

    error, kl = call(trained)
    return Errors(error, reference_error, kl)


def _computed_again(function: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = checkpoint(
        function, use_reentrant=False, preserve_rng_state=False
    )
    return found


def policy_error(policy: Policy, batch: Noised, kind: ErrorKind) -> Float[Tensor, " b"]:
    """The policy's error alone, for methods without a reference."""
    error_of = measure(policy, batch, kind)
    return error_of(policy.predict_at(batch.x_t, batch.level, batch.conditioning))


def errors_in_parts(
    policy: Policy, batch: Noised, kind: ErrorKind, reference: Adapter = "reference"
) -> Errors:
    """As `errors`, `policy.batch_size` rows at a time and with no graph kept: each part is computed
    again in the backward pass, so that a loss may join more rows than fit in memory at once."""
    size = policy.batch_size
    if len(batch) <= size:
        return errors(policy, batch, kind, reference)
    parts = [
        _errors(policy, batch[start : start + size], kind, reference, _computed_again)
        for start in range(0, len(batch), size)
    ]
    return Errors(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def measure(policy: Policy, batch: Noised, kind: ErrorKind) -> ErrorOf:
    """How far a prediction for `batch` is from the truth."""
    if kind == "latent":
        return lambda prediction: latent_error(prediction, batch.target)
    schedule: NoiseSchedule = policy.sampler.schedule  # type: ignore[attr-defined]
    before = (batch.level.timestep - 1).clamp_min(0)
    level = schedule.level(before)

    def features(prediction: Tensor) -> Tensor:
        x_prev = training_step(schedule, batch.level, prediction, batch.x_t).sample(batch.z)
        return policy.features(x_prev, level, batch.conditioning).float()

    with torch.no_grad():
        truth = features(batch.target)
    return lambda prediction: latent_error(features(prediction), truth)


def latent_error(
    prediction: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Mean over c, h, w of the squared difference.

    Worked: (1, 2, 3, 4) against (1, 2, 3, 2): (0 + 0 + 0 + 4) / 4 = 1.
    """
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))


def training_step(
    schedule: NoiseSchedule,
    level: NoiseLevel,
    model_output: Float[Tensor, "b c h w"],
    x_t: Float[Tensor, "b c h w"],
) -> LatentGaussian:
    """q(x_{t-1} | x_t, x0) with x0 as the output means it: DDPM, eq. 7, between neighbours t and
    max(t - 1, 0) of the schedule of training.

        α_t = ᾱ_t / ᾱ_{t-1},  β_t = 1 - α_t
        mean = √ᾱ_{t-1} β_t / (1 - ᾱ_t) · x0 + √α_t (1 - ᾱ_{t-1}) / (1 - ᾱ_t) · x_t
        variance = (1 - ᾱ_{t-1}) / (1 - ᾱ_t) · β_t

    Worked: ᾱ = (0.9, 0.45), t = 1: α_t = β_t = 0.5; the mean is 0.862439 x0 + 0.128565 x_t and the
    variance 0.1 / 0.55 · 0.5 = 0.090909.
    """
    alphas = schedule.alphas_cumprod.double()
    before = (level.timestep - 1).clamp_min(0)
    # Differences of numbers near each other: in double precision, then rounded once.
    now, previous = alphas[level.timestep], alphas[before]
    alpha = now / previous
    beta = 1 - alpha
    of_x0 = previous.sqrt() * beta / (1 - now)
    of_x_t = alpha.sqrt() * (1 - previous) / (1 - now)
    std = ((1 - previous) / (1 - now) * beta).sqrt()
    x0, _ = level.predict(model_output, x_t)
    mean = _rows(of_x0) * x0 + _rows(of_x_t) * x_t.float()
    return LatentGaussian(mean, _rows(std))


def _rows(values: Tensor) -> Float[Tensor, "b 1 1 1"]:
    return values.float().view(-1, 1, 1, 1)


def _halves(half: int) -> tuple[slice, slice]:
    return slice(0, half), slice(half, 2 * half)
