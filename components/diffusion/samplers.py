"""A denoising step as a distribution: one formula for drawing, scoring and comparing it.

    DDIM paper (2010.02502)      here
    α_τi                         alpha_t, the schedule's `alphas_cumprod` at the step's timestep
    α_τ(i-1)                     alpha_prev, at the timestep of the next step
    σ_τi(η)                      std
    x_τi, x_τ(i-1)               x_t, x_prev
    ε_θ                          the noise in a model output of any prediction type

Pure tensors: no model, no file, no global random numbers. Arithmetic is fp32 whatever comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.contracts.errors import GuardError, ModelError, SettingsError

PredictionType = Literal["epsilon", "sample", "v_prediction"]
Spacing = Literal["leading", "trailing", "linspace"]
Step = int | Tensor
"""Position in the denoising loop, 0 (noise) to num_steps - 1: one for a batch, or int64 [b]."""


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

    def timestep(self, step: Step) -> Int64[Tensor, "*b"]:
        """What the network is told at `step`."""
        ...

    def transition(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> LatentGaussian:
        """The distribution of the next, less noisy latent."""
        ...


@dataclass(frozen=True)
class NoiseSchedule:
    """How much noise the base model saw at each training timestep, and where to step through it."""

    alphas_cumprod: Float[Tensor, " t"]
    """ᾱ of each training timestep, in (0, 1], falling."""
    final_alpha_cumprod: float
    """ᾱ after the last step: 1 for clean latents, else that of timestep 0 (Stable Diffusion)."""
    prediction_type: PredictionType = "epsilon"
    spacing: Spacing = "leading"
    steps_offset: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("prediction_type", PredictionType), ("spacing", Spacing)):
            if getattr(self, name) not in get_args(choices):
                raise ModelError(
                    f"{name} '{getattr(self, name)}' of the scheduler is unknown",
                    allowed=", ".join(get_args(choices)),
                )

    def timesteps(self, num_steps: int) -> Int64[Tensor, " n"]:
        """The training timesteps that `num_steps` steps visit, falling (2305.08891, table 2).

        Raises:
            SettingsError: more steps than the schedule has room for.
        """
        num_train = len(self.alphas_cumprod)
        if not 1 <= num_steps <= num_train:
            raise SettingsError(f"num_steps {num_steps}", allowed=f"1 to {num_train}")
        rising = torch.arange(num_steps, dtype=torch.float64)
        if self.spacing == "leading":
            timesteps = rising.flip(0) * (num_train // num_steps) + self.steps_offset
        elif self.spacing == "trailing":
            timesteps = (num_train - rising * (num_train / num_steps)).round() - 1
        else:
            timesteps = torch.linspace(num_train - 1, 0, num_steps, dtype=torch.float64).round()
        if timesteps[0] >= num_train:
            raise SettingsError(
                f"num_steps {num_steps} with steps_offset {self.steps_offset} leaves the schedule",
                allowed=f"1 to {num_train - self.steps_offset}",
            )
        return timesteps.long().to(self.alphas_cumprod.device)


class DDIMSampler:
    """DDIM (2010.02502): eta 0 is deterministic, eta 1 is ancestral sampling (DDPM, 2006.11239).

    `alpha_prev` is that of the next visited timestep. For step counts that divide the training
    timesteps this equals diffusers' `DDIMScheduler`, which subtracts a constant for any spacing.
    """

    def __init__(self, schedule: NoiseSchedule, num_steps: int, eta: float) -> None:
        """Precompute the coefficients of every step.

        Args:
            schedule: of the base model.
            num_steps: denoising steps.
            eta: stochasticity, 0 to 1.

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
        direction = (1 - alpha_prev - std**2).clamp(min=0).sqrt()
        self._sqrt_alpha_t = alpha_t.sqrt().float()
        self._sqrt_noise_t = (1 - alpha_t).sqrt().float()
        self._sqrt_alpha_prev = alpha_prev.sqrt().float()
        self._direction, self._std = direction.float(), std.float()
        self.stochastic_steps = tuple(
            step for step, value in enumerate(self._std.tolist()) if value > 0
        )

    def timestep(self, step: Step) -> Int64[Tensor, "*b"]:
        """The training timestep at `step`: a scalar for an int, [b] for int64 [b]."""
        return self._timesteps[step]

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
        x0, epsilon = self.predict(model_output, x_t, step)
        mean = self._of(self._sqrt_alpha_prev, step, x_t) * x0
        mean = mean + self._of(self._direction, step, x_t) * epsilon
        return LatentGaussian(mean, self._of(self._std, step, x_t))

    def predict(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The clean latent x0 and the noise that a model output of this prediction type means.

        All follow from x_t = √α_t·x0 + √(1 - α_t)·ε; v is that of 2202.00512, appendix D.
        """
        x_t, model_output = x_t.float(), model_output.float()
        signal = self._of(self._sqrt_alpha_t, step, x_t)
        noise = self._of(self._sqrt_noise_t, step, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - noise * model_output) / signal, model_output
        if self.prediction_type == "sample":
            return model_output, (x_t - signal * model_output) / noise
        return signal * x_t - noise * model_output, signal * model_output + noise * x_t

    def add_noise(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], step: Step
    ) -> Float[Tensor, "b c h w"]:
        """x_t ~ q(x_t | x0) at the noise level of `step` (eq. 4), for standard normal `noise`."""
        signal = self._of(self._sqrt_alpha_t, step, x0)
        return signal * x0.float() + self._of(self._sqrt_noise_t, step, x0) * noise.float()

    def target(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], step: Step
    ) -> Float[Tensor, "b c h w"]:
        """What a perfect network would have output for `add_noise(x0, noise, step)`."""
        if self.prediction_type == "epsilon":
            return noise.float()
        if self.prediction_type == "sample":
            return x0.float()
        signal = self._of(self._sqrt_alpha_t, step, x0)
        return signal * noise.float() - self._of(self._sqrt_noise_t, step, x0) * x0.float()

    def _of(self, table: Tensor, step: Step, like: Tensor) -> Float[Tensor, "b 1 1 1"]:
        return table[step].expand(len(like)).view(-1, 1, 1, 1)
