"""REBEL: reward differences are regressed on what the policy itself has moved since it drew.

Papers: Gao et al., "REBEL: Reinforcement Learning via Regressing Relative Rewards", arXiv
2404.16767 (NeurIPS 2024); for diffusion the released code of RLCM, Oertell et al., arXiv
2404.03673, whose other method is in rlcm.py.

    round    draw two images of each prompt with θ_old
    loss     ( β [log p_θ/p_old(x̄) - log p_θ/p_old(x̄')] - [A(x̄) - A(x̄')] )²,
             log-ratios summed over the denoising steps of a trajectory x̄

It is PRDP with the policy that drew in the place of the pretrained one, and without clipping. Its
minimum is p_old exp(r/τ)/Z, with τ = β / D for log-probabilities that are means over D dimensions:
every round solved to its end tilts the policy once more, and nothing pulls it back to the
pretrained one (mirror descent; there is no KL to be had). No reference is computed.

The names follow the project: `regression_beta` is 1/η of the paper and `rebel_rl` of the code,
which multiplies log-ratios where the paper divides; 1 in either reading is the default.

Where the sources disagree the choice is a setting:
  * advantage `raw` (the paper: the reward), or `tracked`, `batch`: the code standardises rewards
    with the newest ones of the same prompt (DDPO's memory), and with the round while few are known.
    Default `tracked`, since 1 belongs to rewards of that scale.
  * group_size 2 (both); more than two give all pairs of a prompt.

Left out: the learning rate that falls linearly to zero over the run; shuffling of the denoising
steps, which a sum does not see.

Deviations: gradients are scaled down to the norm of RLCM's other method, where this code scales
none; AdamW is its Adam at weight decay 0; prompts whose images have
equal advantages are dropped and counted, other ties are regressed to zero; a sampler's
deterministic steps have no probability and are not part of the sum. As the code does, log-
probabilities of a step are means over the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from components.finetuning.algorithms.trajectory_settings import TrajectoryRoundSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.diffusion import Policy
    from components.finetuning.batches import TrajectoryGroups
    from components.finetuning.interfaces import LossOutput, Method, MethodContext


class RebelSettings(TrajectoryRoundSettings):
    """Settings of REBEL; the defaults are those of RLCM's code where it has any."""

    name: Literal["rebel"] = "rebel"
    learning_rate: float = Field(default=1.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=5.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    group_size: int = Field(default=2, ge=2)
    """Images of each prompt."""
    regression_beta: float = Field(default=1.0, gt=0.0)
    """1/η of the paper: log-ratios are multiplied with it."""
    advantage: Literal["raw", "batch", "tracked"] = "tracked"
    """What is regressed: the reward, standardised over the round, or by what is remembered of its
    prompt."""
    buffer_size: int = Field(default=32, ge=1)
    """Rewards remembered of each prompt, with advantage tracked."""
    min_count: int = Field(default=16, ge=1)
    """Rewards of a prompt below which the round's statistics stand in."""

    @model_validator(mode="after")
    def _fits_together(self) -> RebelSettings:
        if self.min_count > self.buffer_size:
            raise ValueError("min_count is more than the buffer_size rewards that are remembered")
        return self

    def requires(self) -> Requirements:
        """Steps with a density."""
        return Requirements(likelihood=True)

    def build(self, context: MethodContext) -> Method:
        """The loss, and rounds of whole trajectories that feed it."""
        from components.finetuning.experience.groups import TrajectoryRounds
        from components.finetuning.experience.on_policy import PromptTracker, RoundBaseline
        from components.finetuning.interfaces import Method

        if self.advantage == "tracked":
            num_prompts = len(context.prompts.prompts)
            memory = PromptTracker(num_prompts, self.buffer_size, self.min_count)
            return Method(Rebel(self), TrajectoryRounds(self, context, memory))
        return Method(Rebel(self), TrajectoryRounds(self, context, RoundBaseline(self.advantage)))


@dataclass(frozen=True)
class Rebel:
    """The loss of REBEL on whole trajectories of whole groups."""

    settings: RebelSettings

    def loss(
        self, policy: Policy, batch: TrajectoryGroups, generator: torch.Generator
    ) -> LossOutput:
        """The regression; deterministic, `generator` is not used.

        Memory does not grow with images and steps, see two_pass.py.
        """
        from components.finetuning.interfaces import LossOutput
        from components.finetuning.losses import policy_gradient, reward_difference
        from components.finetuning.two_pass import score_again

        beta = self.settings.regression_beta
        log_prob = score_again(policy, batch)
        log_ratio = log_prob - batch.log_prob_old.to(log_prob.device)
        reward, group = batch.reward.to(log_prob.device), batch.group.to(log_prob.device)
        total = reward_difference.over_steps(log_ratio, "sum")
        moved = total.detach()
        return LossOutput(
            reward_difference.rebel_loss(total, reward, group, beta),
            {
                **policy_gradient.ratio_figures(log_ratio),
                "implicit_acc": reward_difference.pair_accuracy(moved, reward, group),
                "explained": reward_difference.explained(moved, reward, group, beta),
            },
        )
