"""Flow-DPPO: the trust region is the exact divergence of a step, and not the ratio of one sample.

Paper: Ping et al., "Flow-DPPO: Divergence Proximal Policy Optimization for Flow Matching Models",
arXiv 2606.11025, read in the authors' released code and its notes.

    divergence   D_t = KL(p_old ‖ p_θ) = ‖μ_θ - μ_old‖² / (2 σ_t² (-dt)), a mean over dimensions in
                 the code, to which the published limit of 1e-5 belongs
    loss         mean -A ρ, without the steps for which D_t >= max_divergence and A pushes further
                 away (ρ > 1 where A > 0, ρ < 1 where A < 0); no clip of the ratio, no KL

Steps that come back to the old policy keep their gradient however far they are. Sampling and
advantages are those of flow_grpo.py.

Left out: training on three of the first five steps only, as the released recipe does; and what
flow_grpo.py leaves out.

Deviations: as in flow_grpo.py. The means of the old policy are kept from the rollout, where the
code computes them in a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.on_policy import GroupSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import Transitions
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class FlowDPPOSettings(GroupSettings):
    """Settings of Flow-DPPO; the defaults are the released recipe's for SD3.5-M."""

    name: Literal["flow_dppo"] = "flow_dppo"
    learning_rate: float = Field(default=3.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=48, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=16, ge=2)
    """Images of each of them."""
    advantage: Literal["group_standardised", "group_global_std", "group_centred"] = (
        "group_global_std"
    )
    """(r - mean of the group) over the group's deviation, over that of the round, or as it is."""
    max_divergence: float = Field(default=1.0e-5, gt=0.0)
    """Nats per dimension from which a step that moves away is left out."""

    def requires(self) -> Requirements:
        """A flow with steps that have a density."""
        return Requirements(likelihood=True, families=("flow",), min_steps=2)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds with the means of the policy that drew them."""
        from components.finetuning.experience.on_policy import OnPolicy, group_pieces
        from components.finetuning.interfaces import Method

        pieces = group_pieces(self, context)
        experience = OnPolicy(self, context, **pieces, keep_means=True)
        return Method(FlowDPPO(self.max_divergence), experience)


@dataclass(frozen=True)
class FlowDPPO:
    """The loss on single steps of the SDE, with an advantage and the mean they were drawn by."""

    max_divergence: float

    def loss(self, policy: Policy, batch: Transitions, generator: torch.Generator) -> LossOutput:
        """The masked loss; deterministic, `generator` is not used."""
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient
        from components.finetuning.losses.kl import exact_kl

        assert batch.mean_old is not None, "the experience keeps means"
        taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
        log_ratio = taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old
        divergence = exact_kl(taken.mean.detach(), batch.mean_old, taken.std)
        limit = self.max_divergence
        loss = policy_gradient.divergence_masked_loss(log_ratio, batch.advantage, divergence, limit)
        gone = policy_gradient.leaving(log_ratio, batch.advantage, divergence, limit)
        metrics = {
            **policy_gradient.ratio_figures(log_ratio),
            "divergence": divergence.mean(),
            "masked_fraction": gone.float().mean(),
        }
        return LossOutput(loss, metrics)
