"""Reward-weighted denoising on the base model's own images: the supervised baseline that DPOK is
compared with.

Paper: Fan et al., DPOK, arXiv 2305.16381 (supervised fine-tuning with KL); the reward-weighted loss
is that of Lee et al., "Aligning Text-to-Image Models using Human Feedback", arXiv 2302.12192.

    data     images drawn once from the pretrained model, each with its reward r
    loss     E[ r ‖ε - ε_θ(x_t, c)‖² ]                             kl: none
    KL-D     E[ max(r + γ, 0) ‖ε - ε_θ‖² ]                         kl: data
    KL-O     E[ r ‖ε - ε_θ‖² + γ ‖ε_pre - ε_θ‖² ]                  kl: output

γ is `kl_weight`. The paper's own formulas were read at second hand; squared errors are means over
the latent's dimensions. `clipped_weights` is the share that KL-D clips at zero.

Where a choice had to be made: rewards of the family are standardised, so about half of them are
negative, and a negative weight pushes away from its image without bound. `reward_transform:
non_negative` subtracts the smallest reward of the drawn set from all of them; `raw`, the default
and the paper's, takes them as they are, which KL-D's clipping at zero makes safe and the other two
forms do not.

Deviations: the noise levels are those of the sampler's own steps, drawn uniformly, not all levels
of training: these are the only ones at which the policy is ever asked. Where the base predicts
something else than ε, the errors are those of what it predicts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.optimizer import OptimizerSettings

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import LabelledSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class SupervisedSettings(OptimizerSettings):
    """Settings of the supervised baseline; the defaults are the paper's."""

    name: Literal["supervised"] = "supervised"
    learning_rate: float = Field(default=2.0e-5, gt=0.0, le=1.0)
    """Of the LoRA."""
    num_images: int = Field(default=20_000, ge=1)
    """Images drawn once, balanced over categories; all of them before the first update."""
    group_size: int = Field(default=10, ge=1)
    """Images of one prompt among them."""
    updates_per_round: int = Field(default=100, ge=1)
    """Optimizer steps between two checkpoints; the paper's 8,000 are 80 rounds."""
    samples_per_update: int = Field(default=128, ge=1)
    """Samples whose gradients one step accumulates, `base.batch_size` at a time."""
    kl: Literal["none", "data", "output"] = "data"
    """KL-D, KL-O, or neither."""
    kl_weight: float = Field(default=1.0, ge=0.0)
    """γ of the paper, which tries 0.1, 1, 2 and 5."""
    reward_transform: Literal["raw", "non_negative"] = "raw"
    """Weights as the reward gives them, or shifted so that the smallest is zero."""

    @model_validator(mode="after")
    def _fits_together(self) -> SupervisedSettings:
        if self.num_images % self.group_size:
            raise ValueError("num_images must be a multiple of group_size")
        return self

    def build(self, context: MethodContext) -> Method:
        """The loss, and images drawn once that feed it."""
        from components.finetuning.experience.drawn_once import DrawnOnce
        from components.finetuning.interfaces import Method

        return Method(Supervised(self), DrawnOnce(self, context, weigh=self._weights))

    def _weights(self, reward: torch.Tensor) -> torch.Tensor:
        return reward - reward.min() if self.reward_transform == "non_negative" else reward


@dataclass(frozen=True)
class Supervised:
    """The loss of the supervised baseline on finished samples."""

    settings: SupervisedSettings

    def loss(
        self, policy: Policy, batch: LabelledSamples, generator: torch.Generator
    ) -> LossOutput:
        """Weighted denoising at random steps; steps and noise come from `generator`."""
        import torch

        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import weighted_denoising
        from components.finetuning.losses.kl import prediction_kl

        settings = self.settings
        level = policy.sampler.draw_level(len(batch), generator)
        noise = torch.randn(batch.x0.shape, generator=generator).to(batch.x0.device)
        x_t, target = level.add_noise(batch.x0, noise), level.target(batch.x0, noise)
        prediction = policy.predict_at(x_t, level, batch.conditioning)
        if settings.kl == "output":
            with torch.no_grad():
                reference = policy.predict_at(x_t, level, batch.conditioning, "reference")
            loss = weighted_denoising.output_anchored_loss(
                prediction, target, reference, batch.reward, settings.kl_weight
            )
            kl = prediction_kl(prediction.detach(), reference).mean()
            return LossOutput(loss, {"kl": kl})
        weights, metrics = batch.reward, {}
        if settings.kl == "data":
            weights, num_clipped = weighted_denoising.data_weights(batch.reward, settings.kl_weight)
            metrics = {"clipped_weights": num_clipped / len(batch)}
        loss = weighted_denoising.weighted_denoising_loss(prediction, target, weights)
        return LossOutput(loss, metrics)
