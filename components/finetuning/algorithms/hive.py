"""HIVE: rewards as weights of the denoising loss, or as words in the prompt.

Paper: Zhang et al., "HIVE: Harnessing Human Feedback for Instructional Visual Editing",
arXiv 2303.09618 (CVPR 2024), read at second hand, and its released code.

    weighted      E[ w ‖ε - ε_θ(x_t, c)‖² ],  w = exp(r / temperature) over its mean
    conditional   E[ ‖ε - ε_θ(x_t, c + "image quality is ⟨level⟩ out of five")‖² ], the level being
                  that of the reward r; at inference the best level is asked for

The code multiplies each sample's error by a weight that it reads from the data. That the weight is
exponential in the reward, how it is normalised, and where rewards are cut into levels are
UNVERIFIED. Here weights have mean 1 over the drawn images, so that the learning rate means the same
at every temperature, and levels are equal parts of the ranking, which need no scale.

Where a choice had to be made: the conditional form's adapter must be asked for the best level, and
nobody in this project does so: the monitor, the evaluation and the registry draw with plain
prompts. `inference_phrase` is what is appended to a prompt whose image is of the best level, in
training and for whoever draws later. Null is the best level's own phrase, as in the paper; the
caller then has to append it. An empty string trains the best level on the plain prompt, so that a
plain prompt asks for it: a deviation, and the one with which this form can be measured here.

A phrase must fit behind the longest prompt: tokenizers cut (77 tokens of CLIP, 12 of the miniature,
whose text encoder knows one token for each word of its world and spells all others letter by
letter). Phrases that differ in nothing that the text encoder sees are refused.

Left out: the edited image as a second condition (the paper edits images by instructions; here
images are drawn from prompts), people's rankings and the reward model trained on them (any reward
does), the change of the network's first layer, fine-tuning of all weights.

Deviation: images are drawn once from the pretrained model, in place of a data set of edits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.denoising import denoising_error
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import LabelledSamples
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class HIVESettings(OptimizerSettings):
    """Settings of HIVE; the learning rate is the released code's, for all weights of a U-Net."""

    name: Literal["hive"] = "hive"
    learning_rate: float = Field(default=1.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    num_images: int = Field(default=20_000, ge=1)
    """Images drawn once, balanced over categories; all of them before the first update."""
    group_size: int = Field(default=10, ge=1)
    """Images of one prompt among them."""
    updates_per_round: int = Field(default=100, ge=1)
    """Optimizer steps between two checkpoints."""
    samples_per_update: int = Field(default=128, ge=1)
    """Samples whose gradients one step accumulates, `base.batch_size` at a time."""
    form: Literal["weighted", "conditional"] = "weighted"
    """What a reward becomes."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Of the weights: smaller trusts the best images more."""
    phrase: str = ", image quality is {level} out of five"
    """Appended to the prompt, with a level in its place."""
    level_names: tuple[str, ...] = Field(
        default=("one", "two", "three", "four", "five"), min_length=2
    )
    """Names of the levels, the worst first; there are as many levels."""
    inference_phrase: str | None = None
    """Appended where the best level is wanted; null is that level's own phrase, "" nothing."""
    levels: Literal["sampler", "training"] = "training"
    """Noise levels of the sampler's steps, or all that the base was trained on."""

    @model_validator(mode="after")
    def _fits_together(self) -> HIVESettings:
        if self.num_images % self.group_size:
            raise ValueError("num_images must be a multiple of group_size")
        if "{level}" not in self.phrase:
            raise ValueError("phrase must hold {level}")
        if len(set(self.phrases)) < len(self.phrases):
            raise ValueError("every level needs a phrase of its own")
        return self

    @property
    def phrases(self) -> tuple[str, ...]:
        """What is appended for each level, the worst first."""
        named = tuple(self.phrase.replace("{level}", name) for name in self.level_names)
        return named if self.inference_phrase is None else (*named[:-1], self.inference_phrase)

    def requires(self) -> Requirements:
        """A model that was trained by denoising; a consistency model is none any more."""
        return Requirements(families=("unet", "flow"))

    def build(self, context: MethodContext) -> Method:
        """The loss, and images drawn once that feed it."""
        from components.finetuning.experience.drawn_once import DrawnOnce
        from components.finetuning.experience.quality_phrases import QualityPhrases
        from components.finetuning.interfaces import Method

        conditional = self.form == "conditional"
        experience = DrawnOnce(
            self,
            context,
            weigh=self.weights,
            describe=QualityPhrases(self.phrases, context.policy) if conditional else None,
        )
        return Method(HIVE(self), experience)

    def weights(self, reward: torch.Tensor) -> torch.Tensor:
        """How much each of all drawn images counts, [n]: all alike in the conditional form."""
        import torch

        from components.finetuning.losses.sample_weights import exponential_weights

        if self.form == "conditional":
            return torch.ones_like(reward)
        return exponential_weights(reward, self.temperature)


@dataclass(frozen=True)
class HIVE:
    """The weighted denoising loss; the conditional form differs in weights and prompts alone."""

    settings: HIVESettings

    def loss(
        self, policy: Policy, batch: LabelledSamples, generator: torch.Generator
    ) -> LossOutput:
        """Mean of weight times error; levels and noise from `generator`."""
        from components.finetuning.interfaces import LossOutput

        error = denoising_error(policy, batch, self.settings.levels, generator)
        metrics = {"error": error.detach().mean(), "weight_max": batch.reward.max()}
        return LossOutput((batch.reward * error).mean(), metrics)
