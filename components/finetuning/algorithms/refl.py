"""ReFL: the reward's gradient through one late step of sampling, and a jump to the clean image.

Paper: Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image
Generation", arXiv 2304.05977 (NeurIPS 2023), its algorithm 1, and the released code.

    sample       without gradient down to a random late step; one network call with gradient there;
                 x̂_0 from its output (no further steps), decoded and scored
    loss         λ · E[ max(2 - r(x̂_0, c), 0) ],  λ = 1e-3                 in updates of its own
    beside it    E ‖ε - ε_θ(x_t, c)‖² on pre-training data                 in updates between them

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * window. The text says that images can be told apart from step 30 of 40 on, the algorithm draws
    its step from [1, 10], the code from 30..39. They agree when 1..10 counts what is left to
    denoise: step t of T is then position T - t of the loop. `counted_from: noise` is the code's
    count (position 0 is the noisiest), `image` the algorithm's (1 is the last step).
  * draw_per. The code draws one step for a batch (the default), the algorithm one for each image.
  * pretraining. The paper alternates with the denoising loss on 625K images and captions, the code
    has no such term; default null, as in the code. Ours takes samples that the pretrained model
    drew once, with the prompts of the pool, since no other data is at hand.

Left out: EMA of the weights, dropout (the code leaves the network in training mode), captions of
real images, fp16.

Deviations: the released code tells the network the position in the loop (30..39) as the timestep
of its one call with gradient; here it is told the timestep of that position. The code steps as DDPM
does, without guidance: eta 1, guidance_scale 1; here the run's own sampler steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.denoising import denoising_error
from components.finetuning.algorithms.sampling_gradient import (
    SamplingGradientSettings,
    reward_metrics,
    reward_of_latents,
)
from components.finetuning.requirements import Family, Requirements

if TYPE_CHECKING:
    import torch

    from components.contracts.protocols import Scorer
    from components.diffusion import Policy
    from components.finetuning.batches import LabelledSamples, Prompts
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class StepWindow(StrictModel):
    """The steps of which one is differentiated, both ends included."""

    first: int = Field(default=30, ge=0)
    """Smallest number."""
    last: int = Field(default=39, ge=0)
    """Largest number."""
    counted_from: Literal["noise", "image"] = "noise"
    """Positions in the loop, 0 the noisiest; or steps that are left, 1 the last."""

    @model_validator(mode="after")
    def _fits_together(self) -> StepWindow:
        if self.last < self.first:
            raise ValueError(f"last {self.last} is below first {self.first}")
        if self.counted_from == "image" and self.first < 1:
            raise ValueError("counted from the image the last step is 1, not 0")
        return self

    @property
    def min_steps(self) -> int:
        """Steps that the sampler must have."""
        return self.last + (self.counted_from == "noise")

    def positions(self, num_steps: int) -> range:
        """Positions in the loop.

        Worked: of 40 steps 30..39 counted from the noise are range(30, 40), and so are 1..10
        counted from the image; of 5 steps 1..2 counted from the image are range(3, 5).
        """
        if self.counted_from == "noise":
            return range(self.first, self.last + 1)
        return range(num_steps - self.last, num_steps - self.first + 1)


class PretrainingSettings(StrictModel):
    """The denoising loss on samples of the pretrained model, in every second update."""

    num_images: int = Field(default=10_000, ge=1)
    """Samples drawn once from the pretrained model."""
    group_size: int = Field(default=1, ge=1)
    """Images of one prompt among them."""
    weight: float = Field(default=1.0, gt=0.0)
    """Factor of this loss; AdamW divides by a mean over both kinds of updates."""
    levels: Literal["sampler", "training"] = "training"
    """Noise levels of the sampler's steps, or all that the base was trained on."""

    @model_validator(mode="after")
    def _fits_together(self) -> PretrainingSettings:
        if self.num_images % self.group_size:
            raise ValueError("num_images must be a multiple of group_size")
        return self


class ReFLSettings(SamplingGradientSettings):
    """Settings of ReFL; the defaults are the code's, the batch a note's on the paper."""

    name: Literal["refl"] = "refl"
    weight_decay: float = Field(default=1.0e-2, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    window: StepWindow = StepWindow()
    """The late steps of which one is differentiated."""
    draw_per: Literal["batch", "image"] = "batch"
    """What the step is drawn for."""
    target: float = 2.0
    """An image whose reward has reached it is left alone."""
    reward_weight: float = Field(default=1.0e-3, gt=0.0)
    """λ of the paper."""
    pretraining: PretrainingSettings | None = None
    """The paper's second loss; null is the code."""

    def requires(self) -> Requirements:
        """A differentiable reward, and a sampler that has the steps of the window; with the second
        loss a model that was trained by denoising, which a consistency model is no more."""
        families: tuple[Family, ...] = ("unet", "flow")
        if self.pretraining is None:
            families = (*families, "consistency")
        return Requirements(
            differentiable_reward=True, families=families, min_steps=self.window.min_steps
        )

    def build(self, context: MethodContext) -> Method:
        """The loss, and prompts to draw for."""
        from components.finetuning.experience.prompts import PromptRounds
        from components.finetuning.experience.reference_samples import ReferenceSamples
        from components.finetuning.experience.scoring import differentiable
        from components.finetuning.interfaces import Method

        beside = self.pretraining
        samples = (
            ReferenceSamples(context, beside.num_images, beside.group_size) if beside else None
        )
        return Method(
            ReFL(self, differentiable(context.scorer)),
            PromptRounds(self, context, pretraining=samples),
        )


@dataclass(frozen=True)
class ReFL:
    """Both losses of ReFL, told apart by what is in the batch."""

    settings: ReFLSettings
    scorer: Scorer

    def loss(
        self, policy: Policy, batch: Prompts | LabelledSamples, generator: torch.Generator
    ) -> LossOutput:
        """The reward's loss on prompts, the denoising loss on samples.

        Raises:
            QuarantinedData, GuardError: rewards that must not be trained on.
        """
        from components.finetuning.batches import Prompts
        from components.finetuning.interfaces import LossOutput

        if isinstance(batch, Prompts):
            return self._reward_loss(policy, batch, generator)
        beside = self.settings.pretraining
        if beside is None:
            raise ValueError("samples of the pre-training term, and the settings have none")
        error = denoising_error(policy, batch, beside.levels, generator).mean()
        return LossOutput(beside.weight * error, {"pretraining_error": error.detach()})

    def _reward_loss(
        self, policy: Policy, batch: Prompts, generator: torch.Generator
    ) -> LossOutput:
        import torch

        from components.diffusion import predict_with_gradient
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses.reward_gradient import hinge_loss

        settings = self.settings
        steps = settings.window.positions(policy.sampler.num_steps)
        draws = len(batch) if settings.draw_per == "image" else 1
        drawn = torch.randint(steps.start, steps.stop, (draws,), generator=generator)
        step = drawn.expand(len(batch))
        x0 = predict_with_gradient(
            policy,
            batch.conditioning,
            batch.seeds,
            step,
            checkpointing=settings.checkpointing,
        )
        scored = reward_of_latents(policy, self.scorer, x0, batch.texts, settings.checkpointing)
        reward = scored.reward
        metrics = {
            **reward_metrics(scored),
            "reached_target": (reward >= settings.target).float().mean(),
        }
        return LossOutput(settings.reward_weight * hinge_loss(reward, settings.target), metrics)
