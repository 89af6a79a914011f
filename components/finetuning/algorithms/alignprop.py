"""AlignProp: the reward's gradient through sampling, truncated at a random step.

Paper: Prabhudesai et al., "Aligning Text-to-Image Diffusion Models with Reward Backpropagation",
arXiv 2310.03739, and its released code.

    loss         E[ -r(x_0(θ), c) ], or |target - r| for a reward that must not grow for ever
    truncation   only the last K network outputs keep their gradient, K random. Outputs before them
                 are detached; the path of the latents, x_t -> x_{t-1} without the network,
                 is not
    memory       a LoRA, and network calls that are computed again in the backward pass

K counts from the end: the code's "first step with a gradient" of 50 is 50 - K.

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * truncation. The paper: K random. The newer code: first step = N(42, 5) cut to an integer and
    drawn again until it is a step, K = ⌈N(8, 5)⌉ (`normal`, the default); uniform; fixed at K = 1.
  * draw_per. The newer code draws K once for a batch (`batch`, the default). The older one draws
    anew at every step of a batch's sampling whether that output is kept (`step`), which leaves
    gaps: a kept output's gradient then passes detached ones along the latents. `image` draws K for
    each image: the average of what `batch` does, with less noise.
  * loss `negative` (the code's default) or `margin` (its aesthetic reward aims at 10, its HPS
    reward at 1).
  * max_grad_norm 1 (newer code) or 5 (older), weight_decay 1e-4 (newer) or 0.1 (older).

Left out: early stopping by hand against over-optimisation (the stage's tripwires stop instead),
averaging of two LoRAs, fp16.

Deviations: the steps are those of the run's own sampler; a gradient keeps to the noise that was
drawn (reparametrised), as in the code. In the newer code K is never 50 of 50; here it may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.sampling_gradient import (
    SamplingGradientSettings,
    reward_metrics,
    reward_of_latents,
)
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.contracts.protocols import Scorer
    from components.diffusion import Policy
    from components.finetuning.batches import Prompts
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class NormalTruncation(StrictModel):
    """K = ⌈N(mean, std)⌉, given that it is one of the sampler's numbers of steps."""

    kind: Literal["normal"] = "normal"
    """Tells the forms apart."""
    mean: float = Field(default=8.0, gt=0.0)
    """Of the normal distribution, in steps from the end; not more than the sampler has."""
    std: float = Field(default=5.0, ge=0.1)
    """Of the normal distribution."""

    @property
    def min_steps(self) -> int:
        """Steps that the sampler must have."""
        return math.ceil(self.mean)

    def probabilities(self, num_steps: int) -> torch.Tensor:
        """Of K = 1 .. num_steps, [num_steps].

        Worked: mean 1, std 1, two steps: Φ(0) - Φ(-1) = 0.3413 and Φ(1) - Φ(0) = 0.3413, so one
        half each. Mean 2 instead: 0.1359 and 0.3413, so 0.2848 and 0.7152.
        """
        import torch

        edges = (torch.arange(num_steps + 1, dtype=torch.float64) - self.mean) / self.std
        share = torch.special.ndtr(edges).diff()
        return share / share.sum()


class UniformTruncation(StrictModel):
    """K uniform between two numbers, both included."""

    kind: Literal["uniform"] = "uniform"
    """Tells the forms apart."""
    lowest: int = Field(default=1, ge=1)
    """Smallest K."""
    highest: int = Field(default=20, ge=1)
    """Largest K; not more than the sampler has steps."""

    @model_validator(mode="after")
    def _fits_together(self) -> UniformTruncation:
        if self.highest < self.lowest:
            raise ValueError(f"highest {self.highest} is below lowest {self.lowest}")
        return self

    @property
    def min_steps(self) -> int:
        """Steps that the sampler must have."""
        return self.highest

    def probabilities(self, num_steps: int) -> torch.Tensor:
        """Of K = 1 .. num_steps, [num_steps]."""
        import torch

        share = torch.zeros(num_steps, dtype=torch.float64)
        share[self.lowest - 1 : self.highest] = 1 / (self.highest - self.lowest + 1)
        return share


class FixedTruncation(StrictModel):
    """The same K always: DRaFT-K."""

    kind: Literal["fixed"] = "fixed"
    """Tells the forms apart."""
    grad_steps: int = Field(default=1, ge=1)
    """K; not more than the sampler has steps."""

    @property
    def min_steps(self) -> int:
        """Steps that the sampler must have."""
        return self.grad_steps

    def probabilities(self, num_steps: int) -> torch.Tensor:
        """Of K = 1 .. num_steps, [num_steps]."""
        import torch

        share = torch.zeros(num_steps, dtype=torch.float64)
        share[self.grad_steps - 1] = 1.0
        return share


Truncation = Annotated[
    NormalTruncation | UniformTruncation | FixedTruncation, Field(discriminator="kind")
]


class AlignPropSettings(SamplingGradientSettings):
    """Settings of AlignProp; the defaults are the newer code's."""

    name: Literal["alignprop"] = "alignprop"
    learning_rate: float = Field(default=1.0e-3, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    truncation: Truncation = NormalTruncation()
    """How many of the last network outputs keep their gradient, K; told apart by `kind`."""
    draw_per: Literal["batch", "image", "step"] = "batch"
    """What K is drawn for; `step` asks at every step whether it is among the last K."""
    loss: Literal["negative", "margin"] = "negative"
    """-r, or |target - r|."""
    target: float = 10.0
    """Of the margin."""
    reward_weight: float = Field(default=0.01, gt=0.0)
    """Factor of the loss; felt only by the clipping of gradients, since AdamW has no scale."""

    def requires(self) -> Requirements:
        """A differentiable reward, and as many steps as K may be."""
        return Requirements(differentiable_reward=True, min_steps=self.truncation.min_steps)

    def build(self, context: MethodContext) -> Method:
        """The loss, and prompts to draw for."""
        from components.finetuning.experience.prompts import PromptRounds
        from components.finetuning.experience.scoring import differentiable
        from components.finetuning.interfaces import Method

        return Method(AlignProp(self, differentiable(context.scorer)), PromptRounds(self, context))


@dataclass(frozen=True)
class AlignProp:
    """The loss of AlignProp."""

    settings: AlignPropSettings
    scorer: Scorer

    def loss(self, policy: Policy, batch: Prompts, generator: torch.Generator) -> LossOutput:
        """Draw, score, and say how far the reward is from what is wanted; K from `generator`.

        Raises:
            QuarantinedData, GuardError: rewards that must not be trained on.
        """
        from components.diffusion import denoise_with_gradient
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses.reward_gradient import margin_loss, negative_reward

        settings = self.settings
        kept = self.kept(len(batch), policy.sampler.num_steps, generator)
        x0 = denoise_with_gradient(
            policy,
            batch.conditioning,
            batch.seeds,
            kept,
            cut="output",
            checkpointing=settings.checkpointing,
        )
        scored = reward_of_latents(policy, self.scorer, x0, batch.texts, settings.checkpointing)
        reward = scored.reward
        if settings.loss == "margin":
            loss = margin_loss(reward, settings.target)
        else:
            loss = negative_reward(reward)
        metrics = {**reward_metrics(scored), "grad_steps": kept.sum(1).float().mean()}
        return LossOutput(settings.reward_weight * loss, metrics)

    def kept(self, count: int, num_steps: int, generator: torch.Generator) -> torch.Tensor:
        """Which network outputs keep their gradient, [count, num_steps].

        Worked: K = 2 of 4 steps keeps (0 0 1 1). Drawn per step, K = (4, 1, 3, 1) at the four steps
        keeps (1 0 1 1): step s is kept where s >= 4 - K.
        """
        import torch

        from components.diffusion import last_steps

        settings = self.settings
        share = settings.truncation.probabilities(num_steps)
        draws = {"batch": 1, "image": count, "step": num_steps}[settings.draw_per]
        drawn = 1 + torch.multinomial(share, draws, replacement=True, generator=generator)
        if settings.draw_per == "step":
            return (torch.arange(num_steps) >= num_steps - drawn).expand(count, -1)
        return last_steps(drawn.expand(count), num_steps)
