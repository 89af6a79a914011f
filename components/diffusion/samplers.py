"""A denoising step as a distribution: one formula for drawing, scoring and comparing it.

    DDIM paper (2010.02502)      here
    α_τi                         alpha_t, the schedule's `alphas_cumprod` at the step's timestep
    α_τ(i-1)                     alpha_prev, at the timestep of the next step
    σ_τi(η)                      std
    x_τi, x_τ(i-1)               x_t, x_prev
    ε_θ                          the noise in a model output of any prediction type

Pure tensors: no model, no file, no global random numbers. Arithmetic is fp32 whatever comes in.
Flow models step with `flow_sampler.FlowSampler`, consistency models with
`consistency_sampler.ConsistencySampler`; what all of them offer is the protocol `Sampler`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Num
from torch import Tensor

from components.contracts.errors import GuardError, ModelError, SettingsError
from components.diffusion.noise import NoiseLevel, NoiseSchedule

Step = int | Tensor
"""Position in the denoising loop, 0 (noise) to num_steps - 1: one for a batch, or int64 [b]."""
LevelSource = Literal["sampler", "training"]
"""Where noise levels are drawn from: the sampler's own steps, or all that the base was trained
on."""


@dataclass(frozen=True)
class LatentGaussian:
    """N(mean, std² I): what one denoising step says about `x_prev`."""

    mean: Float[Tensor, "b c h w"]
    std: Float[Tensor, "b 1 1 1"]

    def sample(self, noise: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The draw that standard normal `noise` leads to; differentiable in mean and std."""
        return self.mean + self.std * noise

    def log_prob(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Log-density in nats, summed over c, h, w.

        Raises:
            GuardError: some std is 0, where there is no density.
        """
        return self._log_density(x).flatten(1).sum(1)

    def log_prob_per_dim(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Log-density divided by c·h·w: the figure that published clip ranges are meant for."""
        return self._log_density(x).flatten(1).mean(1)

    def kl(self, other: LatentGaussian) -> Float[Tensor, " b"]:
        """Exact KL(self ‖ other) in nats, summed over c, h, w; exactly 0 for equal Gaussians."""
        return self._kl(other).flatten(1).sum(1)

    def kl_per_dim(self, other: LatentGaussian) -> Float[Tensor, " b"]:
        """Exact KL(self ‖ other) divided by c·h·w."""
        return self._kl(other).flatten(1).mean(1)

    def _log_density(self, x: Tensor) -> Tensor:
        self._require_density()
        z = (x.float() - self.mean) / self.std
        return -0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)

    def _kl(self, other: LatentGaussian) -> Tensor:
        self._require_density()
        other._require_density()
        spread = self.std / other.std
        shift = (self.mean - other.mean) / other.std
        return 0.5 * (spread**2 + shift**2 - 1) - spread.log()

    def _require_density(self) -> None:
        if bool((self.std == 0).any()):
            raise GuardError(
                "a deterministic step (std 0) has no likelihood; "
                "allowed: eta above 0 and the steps in `sampler.stochastic_steps`"
            )


class Sampler(Protocol):
    """What methods and rollouts know of a sampler."""

    num_steps: int
    stochastic_steps: tuple[int, ...]
    """Steps with a density. A method that needs likelihoods checks this when it is built."""

    def timestep(self, step: Step) -> Num[Tensor, "*b"]:
        """What the network is told at `step`."""
        ...

    def level(self, step: Step, count: int) -> NoiseLevel:
        """The noise level of `count` rows at `step`."""
        ...

    def draw_level(
        self, count: int, generator: torch.Generator, source: LevelSource = "sampler"
    ) -> NoiseLevel:
        """Random noise levels of `count` rows: the sampler's steps, uniformly, or those of the
        base's training."""
        ...

    def transition(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> LatentGaussian:
        """The distribution of the next, less noisy latent."""
        ...

    def noisy_only_at(self, steps: Iterable[int]) -> Sampler:
        """The same sampler, deterministic but for `steps` (MixGRPO's window)."""
        ...


class DDIMSampler:
    """DDIM (2010.02502): eta 0 is deterministic, eta 1 is ancestral sampling (DDPM, 2006.11239).

    `alpha_prev` is that of the next visited timestep. For step counts that divide the training
    timesteps this equals diffusers' `DDIMScheduler`, which subtracts a constant for any spacing.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int,
        eta: float,
        *,
        noisy_steps: Iterable[int] | None = None,
    ) -> None:
        """Precompute the coefficients of every step.

        Args:
            schedule: of the base model.
            num_steps: denoising steps.
            eta: stochasticity, 0 to 1.
            noisy_steps: where eta holds; 0 elsewhere. None is everywhere.

        Raises:
            SettingsError: eta or num_steps out of range.
            ModelError: an epsilon model whose schedule has no signal at its first step.
        """
        if not 0.0 <= eta <= 1.0:
            raise SettingsError(f"eta {eta}", allowed="0 to 1")
        self.schedule, self.num_steps, self.eta = schedule, num_steps, eta
        self.prediction_type = schedule.prediction_type
        self._timesteps = schedule.timesteps(num_steps)
        # Differences of numbers near 1: in double precision, then rounded once.
        alpha_t = schedule.alphas_cumprod.double()[self._timesteps]
        alpha_prev = torch.cat([alpha_t[1:], alpha_t.new_tensor([schedule.final_alpha_cumprod])])
        if self.prediction_type == "epsilon" and bool((alpha_t == 0).any()):
            raise ModelError(
                "a schedule with zero terminal signal cannot be stepped from predicted noise",
                allowed="prediction_type v_prediction or sample",
            )
        # Eq. 16. Where nothing is left to denoise (alpha_prev = alpha_t) the step is deterministic.
        variance = (1 - alpha_prev) / (1 - alpha_t) * (1 - alpha_t / alpha_prev)
        std = eta * variance.clamp(min=0).sqrt()
        if noisy_steps is not None:
            std = std * step_mask(noisy_steps, num_steps, std.device)
        direction = (1 - alpha_prev - std**2).clamp(min=0).sqrt()
        self._sqrt_alpha_t = alpha_t.sqrt().float()
        self._sqrt_noise_t = (1 - alpha_t).sqrt().float()
        self._sqrt_alpha_prev = alpha_prev.sqrt().float()
        self._direction, self._std = direction.float(), std.float()
        self.stochastic_steps = tuple(
            step for step, value in enumerate(self._std.tolist()) if value > 0
        )

    def timestep(self, step: Step) -> Num[Tensor, "*b"]:
        """The training timestep at `step`: a scalar for an int, [b] for int64 [b]."""
        return self._timesteps[step]

    def level(self, step: Step, count: int) -> NoiseLevel:
        """The noise level at `step`, one for all rows or int64 [count]."""
        return NoiseLevel(
            self._timesteps[step].expand(count),
            rows_of(self._sqrt_alpha_t, step, count),
            rows_of(self._sqrt_noise_t, step, count),
            self.prediction_type,
        )

    def draw_level(
        self, count: int, generator: torch.Generator, source: LevelSource = "sampler"
    ) -> NoiseLevel:
        """Uniform over the sampler's steps, or over all training timesteps.

        Args:
            count: rows.
            generator: a CPU generator.
            source: which of the two.
        """
        device = self._timesteps.device
        if source == "sampler":
            step = torch.randint(self.num_steps, (count,), generator=generator)
            return self.level(step.to(device), count)
        num_train = len(self.schedule.alphas_cumprod)
        drawn = torch.randint(num_train, (count,), generator=generator)
        return self.schedule.level(drawn.to(device))

    def noisy_only_at(self, steps: Iterable[int]) -> DDIMSampler:
        """DDIM with this eta at `steps` and with eta 0 elsewhere."""
        return DDIMSampler(self.schedule, self.num_steps, self.eta, noisy_steps=steps)

    def transition(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> LatentGaussian:
        """p(x_prev | x_t), eq. 12: mean √α_prev·x0 + √(1 - α_prev - σ²)·ε and std σ of eq. 16.

        Args:
            model_output: what the network said, guidance included.
            x_t: the latent that it was shown.
            step: one for all rows, or int64 [b] with a step of each row.
        """
        x0, epsilon = self.level(step, len(x_t)).predict(model_output, x_t)
        mean = rows_of(self._sqrt_alpha_prev, step, len(x_t)) * x0
        mean = mean + rows_of(self._direction, step, len(x_t)) * epsilon
        return LatentGaussian(mean, rows_of(self._std, step, len(x_t)))


def rows_of(table: Float[Tensor, " n"], step: Step, count: int) -> Float[Tensor, "b 1 1 1"]:
    """A sampler's coefficient at `step`, for each of `count` rows."""
    return table[step].expand(count).view(-1, 1, 1, 1)


def step_mask(steps: Iterable[int], num_steps: int, device: torch.device) -> Tensor:
    """1 at `steps`, 0 elsewhere.

    Raises:
        SettingsError: a step that the sampler does not have.
    """
    mask = torch.zeros(num_steps, dtype=torch.float64, device=device)
    for step in steps:
        if not 0 <= step < num_steps:
            raise SettingsError(f"step {step}", allowed=f"0 to {num_steps - 1}")
        mask[step] = 1
    return mask
