"""GRPO-Guard: Flow-GRPO with a ratio that is centred and scaled alike at every step.

Paper: Wang et al., "GRPO-Guard: Mitigating Implicit Over-Optimization in Flow Matching via
Regulated Clipping", arXiv 2510.22319, read at second hand, in an independent implementation.

    problem      with x = μ_old + s z, s = σ_t √(-dt), the log-ratio of a step (a mean over
                 dimensions) is mean(z·Δ)/s - mean(Δ²)/(2s²), Δ = μ_θ - μ_old: it lies below zero
                 and its spread depends on the step, so that a clip range fits no step
    ratio        log ρ' = s · (log ρ + b_t), b_t = mean(Δ²)/(2s²): what is left is mean(z·Δ)
    loss         mean max(-A ρ', -A clip(ρ', 1 ± clip_range)) / (-dt)

Δ is proportional to dt, which the weight 1/(-dt) of the loss undoes. Sampling and advantages are
those of flow_grpo.py; with `ratio_norm` and `reweight_steps` off the loss is Flow-GRPO's too.

Choices: gradients flow through b_t, so that the gradient of log ρ' is that of mean(z·Δ); a KL to
the reference can be added, and is off: the paper's weight for it was not read.

Left out, and deviations: as in flow_grpo.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.flow_grpo import step_kl
from components.finetuning.algorithms.on_policy import GroupSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import Transitions
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class GRPOGuardSettings(GroupSettings):
    """Settings of GRPO-Guard; what is not the paper's own is Flow-GRPO's."""

    name: Literal["grpo_guard"] = "grpo_guard"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=48, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=24, ge=2)
    """Images of each of them."""
    advantage: Literal["group_standardised", "group_global_std", "group_centred"] = (
        "group_global_std"
    )
    """(r - mean of the group) over the group's deviation, over that of the round, or as it is."""
    clip_range: float = Field(default=2.0e-6, gt=0.0, lt=1.0)
    """Band of the regulated ratio; of the ratio itself where `ratio_norm` is off."""
    ratio_norm: bool = True
    """Whether the log-ratio is centred by b_t and scaled by the step's standard deviation."""
    reweight_steps: bool = True
    """Whether the loss of a step is divided by its length -dt."""
    kl_weight: float = Field(default=0.0, ge=0.0)
    """Of the KL to the reference as in Flow-GRPO; at 0 the reference is not computed."""
    kl: Literal["step_weighted", "exact"] = "step_weighted"
    """The KL of each step times its length, or as it is; both per dimension."""

    def requires(self) -> Requirements:
        """A flow with steps that have a density."""
        return Requirements(likelihood=True, families=("flow",), min_steps=2)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds with the means of the policy that drew them."""
        from components.finetuning.experience.on_policy import OnPolicy, group_pieces
        from components.finetuning.interfaces import Method

        pieces = group_pieces(self, context)
        return Method(GRPOGuard(self), OnPolicy(self, context, **pieces, keep_means=True))


@dataclass(frozen=True)
class GRPOGuard:
    """The loss on single steps of the SDE, with an advantage and the mean they were drawn by."""

    settings: GRPOGuardSettings

    def loss(self, policy: Policy, batch: Transitions, generator: torch.Generator) -> LossOutput:
        """PPO's loss on the regulated ratio; deterministic, `generator` is not used.

        Raises:
            SettingsError: the base is no flow.
        """
        from components.diffusion.flow_sampler import flow_sampler
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient

        settings = self.settings
        assert batch.mean_old is not None, "the experience keeps means"
        taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
        log_ratio = taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old
        if settings.ratio_norm:
            log_ratio = policy_gradient.regulated_log_ratio(
                log_ratio, taken.mean, batch.mean_old, taken.std
            )
        weighted = batch.advantage
        if settings.reweight_steps:
            step_size = flow_sampler(policy.sampler).step_size(batch.step, len(batch))
            weighted = weighted / step_size.flatten()
        loss = policy_gradient.ppo_loss(log_ratio, weighted, settings.clip_range)
        metrics = policy_gradient.ratio_figures(log_ratio, settings.clip_range)
        if settings.kl_weight > 0:
            kl = step_kl(policy, batch, taken, settings.kl)
            loss = loss + settings.kl_weight * kl
            metrics["kl"] = kl.detach()
        return LossOutput(loss, metrics)
