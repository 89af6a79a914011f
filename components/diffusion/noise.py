"""How much noise a latent carries: x_t = signal·x0 + noise·ε, for diffusion and flow models alike.

    prediction_type    what the network says              signal, noise
    epsilon            ε                                   √ᾱ, √(1 - ᾱ)     (2006.11239)
    sample             x0                                  √ᾱ, √(1 - ᾱ)
    v_prediction       √ᾱ·ε - √(1 - ᾱ)·x0                  √ᾱ, √(1 - ᾱ)     (2202.00512, app. D)
    flow               velocity ε - x0                     1 - σ, σ          (2210.02747)

Pure tensors. Arithmetic is fp32 whatever comes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from components.contracts.errors import ModelError, SettingsError

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow"]
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class NoiseLevel:
    """The noise level of each row of a batch, and what a network output means there."""

    timestep: Num[Tensor, " b"]
    """What the network is told: a training timestep, or 1000·σ of a flow."""
    signal: Float[Tensor, "b 1 1 1"]
    noise: Float[Tensor, "b 1 1 1"]
    prediction_type: PredictionType

    def __len__(self) -> int:
        return len(self.timestep)

    def __getitem__(self, rows: slice | Tensor) -> NoiseLevel:
        return replace(
            self, timestep=self.timestep[rows], signal=self.signal[rows], noise=self.noise[rows]
        )

    def add_noise(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """x_t ~ q(x_t | x0) for standard normal `noise`."""
        return self.signal * x0.float() + self.noise * noise.float()

    def target(
        self, x0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """What a perfect network would have output for `add_noise(x0, noise)`."""
        x0, noise = x0.float(), noise.float()
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        if self.prediction_type == "flow":
            return noise - x0
        return self.signal * noise - self.noise * x0

    def predict(
        self, model_output: Float[Tensor, "b c h w"], x_t: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """The clean latent x0 and the noise ε that a model output means."""
        x_t, model_output = x_t.float(), model_output.float()
        signal, noise = self.signal, self.noise
        if self.prediction_type == "epsilon":
            return (x_t - noise * model_output) / signal, model_output
        if self.prediction_type == "sample":
            return model_output, (x_t - signal * model_output) / noise
        if self.prediction_type == "flow":
            return x_t - noise * model_output, x_t + signal * model_output
        return signal * x_t - noise * model_output, signal * model_output + noise * x_t


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
        known = tuple(kind for kind in get_args(PredictionType) if kind != "flow")
        for name, choices in (("prediction_type", known), ("spacing", get_args(Spacing))):
            if getattr(self, name) not in choices:
                raise ModelError(
                    f"{name} '{getattr(self, name)}' of the scheduler is unknown",
                    allowed=", ".join(choices),
                )

    def level(self, timestep: Int64[Tensor, " b"]) -> NoiseLevel:
        """The noise level of training timesteps."""
        alpha = self.alphas_cumprod.double()[timestep].view(-1, 1, 1, 1)
        return NoiseLevel(
            timestep, alpha.sqrt().float(), (1 - alpha).sqrt().float(), self.prediction_type
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
