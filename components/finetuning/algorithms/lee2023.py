"""Lee et al. 2023: one offline round of reward-weighted likelihood with a pre-training term.

Paper: Lee et al., "Aligning Text-to-Image Models using Human Feedback", arXiv 2302.12192, read at
second hand. DPOK's supervised baseline (supervised.py) took its loss from here and put a KL in
place of the second term.

    data     images of the model itself, drawn once, with prompt c and reward r(x, c)
    loss     E_model[ -r(x, c) log p_θ(x | c) ] + β E_pretraining[ -log p_θ(x | c) ]
             with the denoising loss ‖ε - ε_θ(x_t, c)‖² in place of -log p
    reward   regressed to labels of people, good or bad, on CLIP embeddings, with an auxiliary
             loss: a good image's own prompt must win against perturbed prompts

The mean over dimensions of the squared error stands for -log p; β is `pretraining.weight`. Neither
β nor the learning rate is in the notes that were read: 1 and 1e-5 are ours.

The auxiliary loss belongs to the reward model and is `prompt_classification_loss` in
components/rewards/losses/prompts.py, for the training of one. What a method
can do with any reward is here, and ours: `prompt_classification` multiplies an image's weight by
P(own prompt | image)^weight, the softmax over its prompt and perturbed ones under the scorer. In
the log this is what the auxiliary loss adds to the reward's own. The perturbed prompts are those
of the same category that share most words with it: another colour, count or place.

Where a choice had to be made:
  * reward_transform. The paper's rewards are near 0 or 1; rewards about N(0, 1) have negative
    weights, which push away from their images without bound. `raw` is the paper's formula and the
    default, `non_negative` subtracts the smallest reward, `binary` is 1 above `threshold`, else 0.
  * levels. All noise levels of the base's training (default), or those of the sampler's own steps,
    the only ones at which a sampler of few steps ever asks the network.

Left out: the labels of people in the loop (any reward does), images and captions from elsewhere for
the pre-training term: samples of the pretrained model with the pool's prompts take their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.denoising import denoising_error
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import LabelledSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class PretrainingTermSettings(StrictModel):
    """The second term: as many of these samples in each update as of the rewarded ones."""

    num_images: int = Field(default=16_000, ge=1)
    """Samples drawn once from the pretrained model, without rewards."""
    group_size: int = Field(default=1, ge=1)
    """Images of one prompt among them."""
    weight: float = Field(default=1.0, gt=0.0)
    """β of the paper."""

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainingTermSettings:
        if self.num_images % self.group_size:
            raise ValueError("num_images must be a multiple of group_size")
        return self


class PromptClassificationSettings(StrictModel):
    """How much an image's weight depends on its prompt being told from perturbed ones."""

    num_negatives: int = Field(default=5, ge=1, le=64)
    """Perturbed prompts for each prompt; fewer where its category has fewer."""
    temperature: float = Field(default=2.0, gt=0.0)
    """The scorer's scores are divided by it."""
    weight: float = Field(default=0.5, gt=0.0)
    """Exponent of the probability."""


class Lee2023Settings(OptimizerSettings):
    """Settings of the offline round; counts are the paper's where a note gives them."""

    name: Literal["lee2023"] = "lee2023"
    num_images: int = Field(default=16_000, ge=1)
    """Images drawn once, balanced over categories; all of them before the first update."""
    group_size: int = Field(default=10, ge=1)
    """Images of one prompt among them."""
    updates_per_round: int = Field(default=100, ge=1)
    """Optimizer steps between two checkpoints; the paper's 10,000 are 100 rounds."""
    samples_per_update: int = Field(default=512, ge=1)
    """Rewarded samples whose gradients one step accumulates, `base.batch_size` at a time."""
    reward_transform: Literal["raw", "non_negative", "binary"] = "raw"
    """From rewards to weights."""
    threshold: float = 0.0
    """Of `binary`: above it an image is good."""
    pretraining: PretrainingTermSettings | None = PretrainingTermSettings()
    """The second term; null leaves it out."""
    prompt_classification: PromptClassificationSettings | None = None
    """Ours, see above; null takes the reward alone."""
    levels: Literal["sampler", "training"] = "training"
    """Noise levels of the sampler's steps, or all that the base was trained on."""

    @model_validator(mode="after")
    def _fits_together(self) -> Lee2023Settings:
        if self.num_images % self.group_size:
            raise ValueError("num_images must be a multiple of group_size")
        return self

    def requires(self) -> Requirements:
        """A model that was trained by denoising; a consistency model is none any more."""
        return Requirements(families=("unet", "flow"))

    def build(self, context: MethodContext) -> Method:
        """The loss, and images drawn once that feed it."""
        from components.finetuning.experience.drawn_once import DrawnOnce
        from components.finetuning.experience.prompt_classification import PromptClassification
        from components.finetuning.experience.reference_samples import ReferenceSamples
        from components.finetuning.interfaces import Method

        told, beside = self.prompt_classification, self.pretraining
        experience = DrawnOnce(
            self,
            context,
            weigh=self.weights,
            factor=PromptClassification(told, context) if told else None,
            pretraining=(
                ReferenceSamples(context, beside.num_images, beside.group_size) if beside else None
            ),
        )
        return Method(Lee2023(self), experience)

    def weights(self, reward: torch.Tensor) -> torch.Tensor:
        """How much each of all drawn images counts, [n].

        Worked: rewards (-1, 0, 2) with a threshold of 0. raw (-1, 0, 2); non_negative (0, 1, 3);
        binary (0, 0, 1).
        """
        if self.reward_transform == "non_negative":
            return reward - reward.min()
        if self.reward_transform == "binary":
            return (reward > self.threshold).float()
        return reward


@dataclass(frozen=True)
class Lee2023:
    """The loss on finished samples, and on as many of the pretrained model."""

    settings: Lee2023Settings

    def loss(
        self, policy: Policy, batch: LabelledSamples, generator: torch.Generator
    ) -> LossOutput:
        """Weighted denoising plus β times plain denoising; levels and noise from `generator`."""
        from components.finetuning.interfaces import LossOutput

        settings = self.settings
        error = denoising_error(policy, batch, settings.levels, generator)
        loss = (batch.reward * error).mean()
        metrics = {"error": error.detach().mean()}
        if settings.pretraining is not None:
            assert batch.pretraining is not None, "the experience draws them"
            beside = denoising_error(policy, batch.pretraining, settings.levels, generator).mean()
            loss = loss + settings.pretraining.weight * beside
            metrics["pretraining_error"] = beside.detach()
        return LossOutput(loss, metrics)
