"""Stepping with a consistency model: to the picture in one go, and back to less noise than before.

Latent consistency models (LCM, 2310.04378); RLCM (2404.03673) makes of it the decision process
that a policy gradient needs.

    papers                       here
    f_θ(x_t, c, w, t)            c_skip·x_t + c_out·x̂0, the clean latent
    x̂0                           what the network output means, of any prediction type
    ᾱ of the next step           alpha_prev
    H                            num_steps

    every step but the last      x_prev ~ N(√alpha_prev·f, (1 - alpha_prev) I)
    the last step                x_prev = f; a point has no likelihood

The boundary scalings make f(x, 0) = x. With s = timestep_scaling·timestep and σ = 0.5,
c_skip = σ² / (s² + σ²) and c_out = s / √(s² + σ²): functions and figures of diffusers'
`LCMScheduler`, whose draws these are.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.contracts.errors import ModelError, SettingsError
from components.diffusion.noise import NoiseLevel, NoiseSchedule
from components.diffusion.samplers import LatentGaussian, LevelSource, Step, rows_of, step_mask

SIGMA_DATA = 0.5


class ConsistencySampler:
    """Multistep consistency sampling, as distributions."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        num_steps: int,
        *,
        original_inference_steps: int = 50,
        timestep_scaling: float = 10.0,
        noisy_steps: Iterable[int] | None = None,
    ) -> None:
        """Precompute the coefficients of every step.

        Args:
            schedule: of the base model; its spacing and its last ᾱ are not used.
            num_steps: consistency steps.
            original_inference_steps: noise levels of the distillation, evenly spaced; the steps
                take some of them.
            timestep_scaling: of the boundary scalings.
            noisy_steps: where new noise comes in; None is every step but the last. Elsewhere
                the noise is kept that x_t holds beside f, as DDIM with eta 0 keeps it.

        Raises:
            SettingsError: more steps than levels of the distillation, or those than timesteps.
            ModelError: an epsilon model whose schedule has no signal at its first step.
        """
        num_train = len(schedule.alphas_cumprod)
        if not 1 <= original_inference_steps <= num_train:
            raise SettingsError(
                f"original_inference_steps {original_inference_steps}", allowed=f"1 to {num_train}"
            )
        if not 1 <= num_steps <= original_inference_steps:
            raise SettingsError(
                f"num_steps {num_steps}", allowed=f"1 to {original_inference_steps}"
            )
        self.schedule, self.num_steps = schedule, num_steps
        self.prediction_type = schedule.prediction_type
        self.original_inference_steps = original_inference_steps
        self.timestep_scaling = timestep_scaling
        device = schedule.alphas_cumprod.device
        rising = torch.arange(1, original_inference_steps + 1, device=device)
        self._levels = rising * (num_train // original_inference_steps) - 1
        chosen = torch.arange(num_steps, device=device) * original_inference_steps // num_steps
        self._timesteps = self._levels.flip(0)[chosen]
        alpha_t = schedule.alphas_cumprod.double()[self._timesteps]
        alpha_prev = torch.cat([alpha_t[1:], alpha_t.new_ones(1)])
        if self.prediction_type == "epsilon" and bool((alpha_t == 0).any()):
            raise ModelError(
                "a schedule with zero terminal signal cannot be stepped from predicted noise",
                allowed="prediction_type v_prediction or sample",
            )
        scaled = self._timesteps.double() * timestep_scaling
        self._c_skip = (SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)).float()
        self._c_out = (scaled / (scaled**2 + SIGMA_DATA**2).sqrt()).float()
        spread = (1 - alpha_prev).sqrt()
        fresh = torch.ones_like(spread)
        if noisy_steps is not None:
            fresh = step_mask(noisy_steps, num_steps, device)
        self._sqrt_alpha_t = alpha_t.sqrt().float()
        self._sqrt_noise_t = (1 - alpha_t).sqrt().float()
        self._sqrt_alpha_prev = alpha_prev.sqrt().float()
        self._kept, self._std = (spread * (1 - fresh)).float(), (spread * fresh).float()
        self.stochastic_steps = tuple(
            step for step, value in enumerate(self._std.tolist()) if value > 0
        )

    def timestep(self, step: Step) -> Int64[Tensor, "*b"]:
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
        """Uniform over the sampler's steps, or over the levels of the distillation.

        Args:
            count: rows.
            generator: a CPU generator.
            source: which of the two.
        """
        device = self._timesteps.device
        if source == "sampler":
            step = torch.randint(self.num_steps, (count,), generator=generator)
            return self.level(step.to(device), count)
        drawn = torch.randint(self.original_inference_steps, (count,), generator=generator)
        return self.schedule.level(self._levels[drawn.to(device)])

    def noisy_only_at(self, steps: Iterable[int]) -> ConsistencySampler:
        """New noise at `steps` (never at the last one), the noise of x_t elsewhere."""
        return ConsistencySampler(
            self.schedule,
            self.num_steps,
            original_inference_steps=self.original_inference_steps,
            timestep_scaling=self.timestep_scaling,
            noisy_steps=steps,
        )

    def consistency(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> Float[Tensor, "b c h w"]:
        """f_θ: the clean latent at which the path through x_t ends.

        Args:
            model_output: what the network said, which was told the guidance weight.
            x_t: the latent that it was shown.
            step: one for all rows, or int64 [b] with a step of each row.
        """
        x0, _ = self.level(step, len(x_t)).predict(model_output, x_t)
        c_skip = rows_of(self._c_skip, step, len(x_t))
        return c_skip * x_t.float() + rows_of(self._c_out, step, len(x_t)) * x0

    def transition(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> LatentGaussian:
        """p(x_prev | x_t) of the table above; for the arguments see `consistency`."""
        count = len(x_t)
        f = self.consistency(model_output, x_t, step)
        level = self.level(step, count)
        epsilon = (x_t.float() - level.signal * f) / level.noise
        mean = rows_of(self._sqrt_alpha_prev, step, count) * f
        mean = mean + rows_of(self._kept, step, count) * epsilon
        return LatentGaussian(mean, rows_of(self._std, step, count))
