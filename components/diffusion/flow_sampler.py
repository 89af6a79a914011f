"""Stepping through a rectified flow: as an ODE, as an SDE with its marginals, or as CPS.

Flow-GRPO (2505.05470), DanceGRPO (2505.07818), CPS (2509.05952).

    papers                       here
    t, the noise level           sigma, 1 (noise) to 0 (clean); x_t = (1 - σ)·x0 + σ·ε
    v_θ                          the velocity ε - x0 that the network predicts
    dt < 0                       sigma_next - sigma
    diffusion coefficient g(t)   flow_grpo: a·sqrt(σ / (1 - σ)); dance: a; a is `noise_level`

    ODE          x_next = x_t + v dt                                                     (Euler)
    flow_grpo,   mean   = x_t + [v + g²/(2σ)·ε̂] dt,   std = g·sqrt(-dt)
    dance                 where ε̂ = x_t + (1 - σ)·v, and -ε̂/σ is the score
    cps          mean   = (1 - σ')·x̂0 + σ'·cos(aπ/2)·ε̂,   std = σ'·sin(aπ/2),   σ' = sigma_next

The SDEs have the flow's marginals in the limit of many steps; with few, their noise stays visible.
CPS keeps the flow's coefficients at any number of steps, which is exact where x̂0 is; the share of
noise that it replaces does not shrink with the step, so that spread-out data lose variance.

Deviation: the last step, which lands on σ = 0, is the ODE's in every form. The released codes add
noise there and leave that step out of the training; its tiny std would outweigh all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Num
from torch import Tensor

from components.contracts.errors import ModelError, SettingsError
from components.diffusion.noise import NoiseLevel
from components.diffusion.samplers import (
    LatentGaussian,
    LevelSource,
    Sampler,
    Step,
    rows_of,
    step_mask,
)

SDE = Literal["flow_grpo", "dance", "cps"]
NUM_TRAIN = 1000
"""The network is told 1000·σ, as every released flow model is."""


class FlowSampler:
    """Euler steps through falling sigmas, with the noise of an SDE where it is wanted."""

    prediction_type: Literal["flow"] = "flow"

    def __init__(
        self,
        sigmas: Float[Tensor, " n1"],
        noise_level: float,
        sde: SDE = "flow_grpo",
        *,
        noisy_steps: Iterable[int] | None = None,
    ) -> None:
        """Precompute the coefficients of every step.

        Args:
            sigmas: noise levels in [0, 1], falling, num_steps + 1 of them; the last one is 0.
            noise_level: the SDE's a, 0 is the ODE; at most 1 for `cps`.
            sde: how noise is put in.
            noisy_steps: where it is put in; None is every step but the last.

        Raises:
            ModelError: sigmas that do not fall to 0.
            SettingsError: a noise level or a form that does not exist.
        """
        if sde not in get_args(SDE):
            raise SettingsError(f"flow_sde '{sde}'", allowed=", ".join(get_args(SDE)))
        highest = 1.0 if sde == "cps" else 10.0
        if not 0.0 <= noise_level <= highest:
            raise SettingsError(
                f"noise_level {noise_level}", allowed=f"0 to {highest:g} with {sde}"
            )
        if bool((sigmas.diff() >= 0).any()) or float(sigmas[-1]) != 0.0 or float(sigmas[0]) > 1.0:
            raise ModelError("the scheduler's sigmas do not fall from at most 1 to 0")
        self.sigmas, self.noise_level, self.sde = sigmas, noise_level, sde
        self.num_steps = len(sigmas) - 1
        sigma, after = sigmas[:-1].double(), sigmas[1:].double()
        noise = torch.full_like(sigma, noise_level)
        noise[-1] = 0.0
        if noisy_steps is not None:
            noise = noise * step_mask(noisy_steps, self.num_steps, noise.device)
        velocity, epsilon, std = _coefficients(sigma, after, noise, sde)
        self._sigma = sigma.float()
        self._signal = (1 - sigma).float()
        self._velocity, self._epsilon, self._std = velocity.float(), epsilon.float(), std.float()
        self.stochastic_steps = tuple(
            step for step, value in enumerate(self._std.tolist()) if value > 0
        )

    def timestep(self, step: Step) -> Num[Tensor, "*b"]:
        """1000·σ at `step`: a scalar for an int, [b] for int64 [b]."""
        return self._sigma[step] * NUM_TRAIN

    def level(self, step: Step, count: int) -> NoiseLevel:
        """The noise level at `step`, one for all rows or int64 [count]."""
        return NoiseLevel(
            self.timestep(step).expand(count),
            rows_of(self._signal, step, count),
            rows_of(self._sigma, step, count),
            "flow",
        )

    def draw_level(
        self, count: int, generator: torch.Generator, source: LevelSource = "sampler"
    ) -> NoiseLevel:
        """Uniform over the sampler's steps, or σ uniform in (0, 1].

        Args:
            count: rows.
            generator: a CPU generator.
            source: which of the two.
        """
        device = self._sigma.device
        if source == "sampler":
            step = torch.randint(self.num_steps, (count,), generator=generator)
            return self.level(step.to(device), count)
        sigma = 1 - torch.rand((count,), generator=generator).to(device)
        rows = sigma.view(-1, 1, 1, 1)
        return NoiseLevel(sigma * NUM_TRAIN, 1 - rows, rows, "flow")

    def step_size(self, step: Step, count: int) -> Float[Tensor, "b 1 1 1"]:
        """-dt > 0: by how much σ falls at `step`, one for all rows or int64 [count]."""
        return rows_of(-self._velocity, step, count)

    def noisy_only_at(self, steps: Iterable[int]) -> FlowSampler:
        """The SDE at `steps`, the ODE elsewhere."""
        return FlowSampler(self.sigmas, self.noise_level, self.sde, noisy_steps=steps)

    def transition(
        self,
        model_output: Float[Tensor, "b c h w"],
        x_t: Float[Tensor, "b c h w"],
        step: Step,
    ) -> LatentGaussian:
        """p(x_prev | x_t) of the table above.

        Args:
            model_output: the velocity, guidance included.
            x_t: the latent that the network was shown.
            step: one for all rows, or int64 [b] with a step of each row.
        """
        count = len(x_t)
        velocity = model_output.float()
        epsilon = x_t.float() + rows_of(self._signal, step, count) * velocity
        mean = x_t.float() + rows_of(self._velocity, step, count) * velocity
        mean = mean + rows_of(self._epsilon, step, count) * epsilon
        return LatentGaussian(mean, rows_of(self._std, step, count))


def flow_sampler(sampler: Sampler) -> FlowSampler:
    """The sampler, which must be a flow's: for what is defined for no other.

    Raises:
        SettingsError: it is not.
    """
    if not isinstance(sampler, FlowSampler):
        raise SettingsError(
            "the method is defined for flow models, and base.path is none",
            allowed="a base.path in the layout of StableDiffusion3Pipeline",
        )
    return sampler


def _coefficients(sigma: Tensor, after: Tensor, noise: Tensor, sde: SDE) -> tuple[Tensor, ...]:
    """Of velocity and ε̂ in `mean - x_t`, and the std, for each step."""
    dt = after - sigma
    if sde == "cps":
        # x̂0 = x_t - σv and ε̂ = x_t + (1 - σ)v: with noise 0 the mean is x_t + v dt again.
        angle = noise * (math.pi / 2)
        return dt, after * (angle.cos() - 1), after * angle.sin()
    if sde == "dance":
        coefficient = noise
    else:
        # At σ = 1 the released code puts the next sigma of the grid into 1 - σ.
        below = torch.where(sigma == 1, after, sigma)
        coefficient = noise * (sigma / (1 - below)).sqrt()
    return dt, coefficient**2 / (2 * sigma) * dt, coefficient * (-dt).sqrt()
