"""DRaFT: the reward's own gradient, sent back through the last steps of sampling.

Paper: Clark et al., "Directly Fine-Tuning Diffusion Models on Differentiable Rewards",
arXiv 2309.17400 (ICLR 2024).

    loss        E_{c, x_T, z} [ -r(x_0(θ, c, x_T, z), c) ]
    DRaFT       the gradient goes through all steps of sampling      grad_steps: null
    DRaFT-K     x_K is cut from the graph: the last K steps alone    grad_steps: K
    DRaFT-LV    K = 1, and the last step is taken from n noises: x_1^i ~ q(x_1 | x_0), x_0 cut
                from the graph; the gradients of r(x_0^i) are averaged   low_variance

A chain of many steps has large gradients, and their norm is clipped (`max_grad_norm`); K = 1 is the
paper's recommendation for large rewards, and the default.

Where a choice had to be made:
  * low_variance.with_sample, whether the sample's own last step is one more of the averaged
    gradients. The paper's algorithm was not read; a public reimplementation leaves it out, and so
    does the default. The paper's n is UNVERIFIED too; the default is that reimplementation's 2.
  * learning rate, weight decay and batch are those that the same reimplementation gives as the
    paper's for its small runs, UNVERIFIED; the norm at which gradients are clipped is ours.

Left out: interpolation of the LoRA's scale at inference (adapter weight of any LoRA loader),
rewards on random crops and rotations, fp16.

Deviations: the steps are those of the run's own sampler; where it is stochastic, its noise is held
fixed (reparametrised). A re-noised copy takes the mean of the last step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    from components.finetuning.experience.scoring import Scored
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class LowVarianceSettings(StrictModel):
    """DRaFT-LV: the last step taken from several noises."""

    copies: int = Field(default=2, ge=1, le=64)
    """Re-noised copies of every sample, n of the paper."""
    with_sample: bool = False
    """Whether the sample's own last step is averaged with them."""


class DRaFTSettings(SamplingGradientSettings):
    """Settings of DRaFT-K with K = 1."""

    name: Literal["draft"] = "draft"
    learning_rate: float = Field(default=4.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=0.1, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_update: int = Field(default=4, ge=1)
    """Prompts of one optimizer step, balanced over categories."""
    updates_per_round: int = Field(default=20, ge=1)
    """Optimizer steps between two looks at the drift of the images."""
    grad_steps: int | None = Field(default=1, ge=1)
    """K: the last steps through which the gradient goes; null is all of them, DRaFT itself."""
    low_variance: LowVarianceSettings | None = None
    """DRaFT-LV; null is DRaFT-K."""

    @model_validator(mode="after")
    def _fits_together(self) -> DRaFTSettings:
        if self.low_variance and self.grad_steps != 1:
            raise ValueError("low_variance is for the last step: use grad_steps 1")
        return self

    def requires(self) -> Requirements:
        """A differentiable reward, and K steps."""
        return Requirements(differentiable_reward=True, min_steps=self.grad_steps or 1)

    def build(self, context: MethodContext) -> Method:
        """The loss, and prompts to draw for."""
        from components.finetuning.experience.prompts import PromptRounds
        from components.finetuning.experience.scoring import differentiable
        from components.finetuning.interfaces import Method

        return Method(DRaFT(self, differentiable(context.scorer)), PromptRounds(self, context))


@dataclass(frozen=True)
class DRaFT:
    """The loss of DRaFT-K and DRaFT-LV."""

    settings: DRaFTSettings
    scorer: Scorer

    def loss(self, policy: Policy, batch: Prompts, generator: torch.Generator) -> LossOutput:
        """Draw, score, and say `-r`; `generator` gives the noise of the copies alone.

        Raises:
            QuarantinedData, GuardError: rewards that must not be trained on.
        """
        import torch

        from components.diffusion import denoise_with_gradient, last_steps
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses.reward_gradient import negative_reward

        settings, num_steps = self.settings, policy.sampler.num_steps
        lowered = settings.low_variance
        grad_steps = torch.full((len(batch),), settings.grad_steps or num_steps)
        kept = last_steps(grad_steps, num_steps)
        with torch.set_grad_enabled(lowered is None or lowered.with_sample):
            x0 = denoise_with_gradient(
                policy,
                batch.conditioning,
                batch.seeds,
                kept,
                cut="latent",
                checkpointing=settings.checkpointing,
            )
            scored = self._scored(policy, batch, x0)
        reward, metrics = scored.reward, reward_metrics(scored)
        if lowered is None:
            return LossOutput(negative_reward(reward), metrics)
        copies = self._copies(policy, batch, x0, lowered.copies, generator)
        metrics["copy_reward"] = copies.detach().mean()
        rewards = torch.cat([copies, reward]) if lowered.with_sample else copies
        return LossOutput(negative_reward(rewards), metrics)

    def _copies(
        self,
        policy: Policy,
        batch: Prompts,
        x0: torch.Tensor,
        copies: int,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Rewards [copies · b] of the last step from noises of their own."""
        import torch

        from components.diffusion import renoised_step_with_gradient

        rewards = []
        for _ in range(copies):
            again = renoised_step_with_gradient(
                policy,
                batch.conditioning,
                x0,
                torch.randn(x0.shape, generator=generator).to(x0.device),
                checkpointing=self.settings.checkpointing,
            )
            rewards.append(self._scored(policy, batch, again).reward)
        return torch.cat(rewards)

    def _scored(self, policy: Policy, batch: Prompts, x0: torch.Tensor) -> Scored:
        return reward_of_latents(policy, self.scorer, x0, batch.texts, self.settings.checkpointing)
