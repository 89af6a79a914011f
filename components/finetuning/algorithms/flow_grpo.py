"""Flow-GRPO: group-relative policy gradient on the steps of an SDE with a flow's marginals.

Paper: Liu et al., "Flow-GRPO: Training Flow Matching Models via Online RL", arXiv 2505.05470
(NeurIPS 2025), read in its released code.

    sampling     the flow's ODE becomes an SDE (components/diffusion/flow_sampler.py), so that a
                 step has a density: log p_θ(x_{t+dt} | x_t) = log N(μ_θ, σ_t²(-dt) I)
    advantage    A_i = (r_i - mean of its group) / std, kept in ±5
    loss         mean max(-A ρ, -A clip(ρ, 1 ± clip_range)) + kl_weight · KL(p_θ ‖ p_ref)

Where the sources disagree, or more than one reading is of use, the choice is a setting:
  * `kl`. The Gaussian KL of a step is ‖μ_θ - μ_ref‖² / (2 σ_t² (-dt)). The code leaves -dt out,
    which weights each step's KL by its length: `step_weighted`, the default, because the published
    weights (0.04, 0.01 for PickScore) were used with it; `exact` is the KL itself.
  * `advantage`. The released configurations divide by the deviation of all rewards of the round
    (group_global_std, the default), GRPO by that of the group (group_standardised).
  * denoising reduction, 10 steps in training and 40 in use: it is `base.num_steps` here, and the
    LoRA can be used with any number of steps.

Left out: the average of the LoRA over updates (EMA) that the released configurations evaluate;
training on one or two steps only ("Fast"), which is what mix_grpo.py's window does; several rewards
at once.

Deviations: the last step, which lands on the clean latent, is the ODE's (the code draws noise there
and leaves the step out of the training, as its `timestep_fraction` of 0.99 has it); 1e-6 and not
1e-4 is added to standard deviations; the loss is the mean over all transitions of an update.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.on_policy import GroupSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import LatentGaussian, Policy
    from components.finetuning.batches import Transitions
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class FlowGRPOSettings(GroupSettings):
    """Settings of Flow-GRPO; the defaults are the released ones for SD3.5-M and GenEval."""

    name: Literal["flow_grpo"] = "flow_grpo"
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
    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    kl_weight: float = Field(default=0.04, ge=0.0)
    """β of the paper; at 0 the reference is not computed."""
    kl: Literal["step_weighted", "exact"] = "step_weighted"
    """The KL of each step times its length, or as it is; both per dimension."""

    def requires(self) -> Requirements:
        """A flow with steps that have a density."""
        return Requirements(likelihood=True, families=("flow",), min_steps=2)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of the policy's own images that feed it."""
        from components.finetuning.experience.on_policy import OnPolicy, group_pieces
        from components.finetuning.interfaces import Method

        loss = FlowGRPO(self.clip_range, self.kl_weight, self.kl)
        return Method(loss, OnPolicy(self, context, **group_pieces(self, context)))


@dataclass(frozen=True)
class FlowGRPO:
    """The loss on single steps of the SDE that have an advantage."""

    clip_range: float
    kl_weight: float = 0.0
    kl: Literal["step_weighted", "exact"] = "step_weighted"

    def loss(self, policy: Policy, batch: Transitions, generator: torch.Generator) -> LossOutput:
        """PPO's loss and the KL; deterministic, `generator` is not used."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient

        taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
        log_ratio = taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old
        loss = policy_gradient.ppo_loss(log_ratio, batch.advantage, self.clip_range)
        metrics = policy_gradient.ratio_figures(log_ratio, self.clip_range)
        if self.kl_weight > 0:
            kl = step_kl(policy, batch, taken, self.kl)
            loss = loss + self.kl_weight * kl
            metrics["kl"] = kl.detach()
        return LossOutput(loss, metrics)


def step_kl(
    policy: Policy,
    batch: Transitions,
    taken: LatentGaussian,
    kind: Literal["step_weighted", "exact"],
) -> torch.Tensor:
    """Mean over the batch of the KL of the steps to the reference's, per dimension.

    Raises:
        SettingsError: `step_weighted`, and the base is no flow.
    """
    import torch

    from components.diffusion.flow_sampler import flow_sampler
    from components.finetuning.losses.kl import exact_kl, step_weighted_kl

    with torch.no_grad():
        reference = policy.transition(batch.x_t, batch.step, batch.conditioning, "reference")
    if kind == "exact":
        return exact_kl(taken.mean, reference.mean, taken.std).mean()
    step_size = flow_sampler(policy.sampler).step_size(batch.step, len(batch))
    return step_weighted_kl(taken.mean, reference.mean, taken.std, step_size).mean()
