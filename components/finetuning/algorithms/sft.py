"""SFT and NCP-SFT: plain denoising of the images that were preferred.

Papers: the supervised baseline of preference optimisation; with `error: perceptual` NCP-SFT of
Gambashidze et al., arXiv 2406.17636, with its released code.

    loss     k · mean e(x_w), e = ‖ε - ε_θ(x_t, t, c)‖² or NCP's PL: see denoising_errors.py

The factor k is the papers' 1, or with `calibrate` that which makes the loss at the start as large
as wanted. To Adam it makes no difference, but for two things: errors of features can be so small
(1e-5 on the miniature, with gradients of 1e-9) that the 1e-8 in Adam's denominator swallows the
step, and `max_grad_norm` means the same for both kinds of error. So the default is a loss of 1.

No losers are asked for: `pairs.source` may be `winners`. With `people` an image counts once for
each time that it was preferred, with `winners` once.

Left out: half precision, 8-bit AdamW, caption dropout. Deviations: as in diffusion_dpo.py. Not to
be confused with supervised.py, DPOK's baseline, which weighs the base's own images by a reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from components.finetuning.algorithms.preference_settings import PreferenceSettings

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import DesirableSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class SFTSettings(PreferenceSettings):
    """Settings of fine-tuning on winners; the optimizer is Diffusion-DPO's."""

    name: Literal["sft"] = "sft"
    samples_per_update: int = Field(default=2048, ge=1)
    """Samples whose gradients one step accumulates, `base.batch_size` at a time."""

    calibrate: float | None = Field(default=1.0, gt=0.0)
    """The loss at the start, measured before training; null takes the error as it is."""

    needs_losers: ClassVar[bool] = False

    def build(self, context: MethodContext) -> Method:
        """The loss, and stored winners that feed it."""
        from components.finetuning.experience.preferences import StoredWinners
        from components.finetuning.interfaces import Method

        return Method(SFT(self), StoredWinners(self, context, whole=False))


@dataclass(frozen=True)
class SFT:
    """The denoising error of winners."""

    settings: SFTSettings

    def loss(
        self, policy: Policy, batch: DesirableSamples, generator: torch.Generator
    ) -> LossOutput:
        """Mean error; levels and noise come from `generator`."""
        from components.finetuning.denoising_errors import noised, policy_error
        from components.finetuning.interfaces import LossOutput

        settings = self.settings
        samples = noised(
            policy, batch.x0, batch.conditioning, generator, source=settings.noise_levels
        )
        error = policy_error(policy, samples, settings.error).mean()
        return LossOutput((batch.loss_scale or 1.0) * error, {"error_w": error.detach()})
