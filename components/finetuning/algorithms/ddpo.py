"""DDPO: policy gradient over denoising steps with per-prompt statistics and PPO's clip.

Paper: Black et al., "Training Diffusion Models with Reinforcement Learning", arXiv 2305.13301
(ICLR 2024), read at second hand, and its released code.

    episode     a denoising trajectory, as in dpok.py; only the last step is rewarded
    advantage   A = (r - mean) / std of the newest rewards of the same prompt, `buffer_size` of
                them, kept in ±5; mean and std of the round while fewer than `min_count` are known
    DDPO_SF     E[ -A Σ_t ∇ log p_θ(x_{t-1} | x_t, c) ]: one update a round, on-policy
    DDPO_IS     E[ Σ_t max(-A ρ_t, -A clip(ρ_t, 1 ± clip_range)) ], ρ_t = p_θ / p_old: more updates

There is no KL and no critic: held to one round, DPOK without both is this method.

Where the sources leave a choice, it is a setting:
  * `estimator`: importance_sampling (DDPO_IS, the better one of the paper and the default) or
    score_function (DDPO_SF), which is only right for the first update of a round.
  * `train_steps`: every denoising step (the paper; null), or so many of each image drawn at random,
    anew in each pass (an option of the code, and what HERO does with five).
  * `buffer_size` 16 to 32 and `min_count` 16: the larger buffer is the default.
  * `baseline` batch leaves the memory out: where a prompt is seen five times in all, PRDP
    (2402.08714) reports that DDPO falls back to it and fails.

Left out: training of the whole U-Net, fp16.

Deviations: the loss is the mean over the transitions of an update where the paper has a sum over
steps, which the rescaled gradient and AdamW make the same; prompts of a round are balanced over
categories; the memory is by prompt of the pool, and a prompt's images lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.on_policy import OnPolicySettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import Transitions
    from components.finetuning.experience.on_policy import Baseline
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class PolicyGradientSettings(OnPolicySettings):
    """What DDPO and its sibling on consistency models (rlcm.py) have in common."""

    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    estimator: Literal["importance_sampling", "score_function"] = "importance_sampling"
    """DDPO_IS or DDPO_SF."""
    train_steps: int | None = Field(default=None, ge=1)
    """Denoising steps of each image that are trained on, drawn at random; null takes all."""
    baseline: Literal["tracker", "batch"] = "tracker"
    """What a reward is compared with: what is remembered of its prompt, or the round."""
    buffer_size: int = Field(default=32, ge=1)
    """Rewards remembered of each prompt."""
    min_count: int = Field(default=16, ge=1)
    """Rewards of a prompt below which the round's statistics stand in."""

    @model_validator(mode="after")
    def _fits_together(self) -> PolicyGradientSettings:
        if self.min_count > self.buffer_size:
            raise ValueError("min_count is more than the buffer_size rewards that are remembered")
        if self.estimator == "score_function" and self.inner_epochs * self.updates_per_epoch > 1:
            raise ValueError(
                "estimator score_function is on-policy in the first update only: use "
                "inner_epochs 1 and updates_per_epoch 1, or importance_sampling"
            )
        return self

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of the policy's own images that feed it."""
        from components.finetuning.experience.on_policy import (
            OnPolicy,
            PromptTracker,
            RoundBaseline,
            every_step,
            random_steps,
        )
        from components.finetuning.interfaces import Method

        num_prompts = len(context.prompts.prompts)
        baseline: Baseline = (
            PromptTracker(num_prompts, self.buffer_size, self.min_count)
            if self.baseline == "tracker"
            else RoundBaseline("batch")
        )
        choose = every_step if self.train_steps is None else random_steps(self.train_steps)
        loss = PolicyGradient(self.clip_range, self.estimator)
        return Method(loss, OnPolicy(self, context, baseline, choose=choose))


class DDPOSettings(PolicyGradientSettings):
    """Settings of DDPO; the defaults are the paper's 256 images a round and the code's LoRA."""

    name: Literal["ddpo"] = "ddpo"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=256, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=1, ge=1)
    """Images of each of them."""


@dataclass(frozen=True)
class PolicyGradient:
    """The loss on single denoising steps that have an advantage."""

    clip_range: float
    estimator: Literal["importance_sampling", "score_function"] = "importance_sampling"

    def loss(self, policy: Policy, batch: Transitions, generator: torch.Generator) -> LossOutput:
        """DDPO_IS or DDPO_SF; deterministic, `generator` is not used."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient

        taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
        log_prob = taken.log_prob_per_dim(batch.x_prev)
        log_ratio = log_prob - batch.log_prob_old
        metrics = policy_gradient.ratio_figures(log_ratio, self.clip_range)
        if self.estimator == "score_function":
            loss = policy_gradient.score_function_loss(log_prob, batch.advantage)
        else:
            loss = policy_gradient.ppo_loss(log_ratio, batch.advantage, self.clip_range)
        return LossOutput(loss, metrics)
