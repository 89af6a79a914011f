"""DanceGRPO: group-relative policy gradient on images that start from the same noise.

Paper: Xue et al., "DanceGRPO: Unleashing GRPO on Visual Generation", arXiv 2505.07818, read in its
released code.

    sampling     diffusion models: DDIM with eta 1. Flows: an SDE with constant noise η, which is
                 `base.flow_sde: dance` and `base.noise_level` η = 0.3
                 (components/diffusion/flow_sampler.py). All images of a prompt share x_T.
    advantage    A_i = (r_i - mean of its group) / std of its group, kept in ±5
    loss         mean max(-A ρ, -A clip(ρ, 1 ± clip_range)) on a random 60 % of the steps of each
                 image; no KL

The share of steps is FLUX's; for Stable Diffusion 1.4 the code trains on all of them, which is
`train_fraction: 1.0`.

Left out: the average of the LoRA over updates (EMA); several rewards, whose advantages are added;
video.

Deviations: the last step of a flow is the ODE's (the code draws noise there and leaves the step
out); the standard deviation of a group is the population's, with 1e-6 added; the loss is the mean
over all transitions of an update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from components.finetuning.algorithms.ddpo import PolicyGradient
from components.finetuning.algorithms.on_policy import GroupSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    from components.finetuning.interfaces import Method, MethodContext


class DanceGRPOSettings(GroupSettings):
    """Settings of DanceGRPO; the defaults are the released ones for FLUX, on 16 devices."""

    name: Literal["dance_grpo"] = "dance_grpo"
    learning_rate: float = Field(default=1.0e-5, gt=0.0, le=1.0)
    """Of the LoRA; the authors trained all weights at this rate."""
    weight_decay: float = Field(default=1.0e-4, ge=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    updates_per_epoch: int = Field(default=3, ge=1)
    """Optimizer steps of a pass over the round: 12 images in fours."""
    shared_noise: bool = True
    """Whether all images of a prompt start from the same noise."""
    clip_range: float = Field(default=1.0e-4, gt=0.0, lt=1.0)
    """Band of the ratio of log-probabilities that are means over the latent's dimensions."""
    train_fraction: float = Field(default=0.6, gt=0.0, le=1.0)
    """Share of an image's steps that is trained on, drawn anew for each image and each pass."""

    def requires(self) -> Requirements:
        """Steps with a density, of a diffusion model or a flow."""
        return Requirements(likelihood=True, families=("unet", "flow"))

    def build(self, context: MethodContext) -> Method:
        """PPO's loss, and rounds of groups that feed it."""
        from components.finetuning.experience.on_policy import (
            OnPolicy,
            group_pieces,
            random_fraction,
        )
        from components.finetuning.interfaces import Method

        pieces = group_pieces(self, context)
        choose = random_fraction(self.train_fraction)
        experience = OnPolicy(self, context, **pieces, choose=choose)
        return Method(PolicyGradient(self.clip_range), experience)
