"""RLCM: DDPO on the few steps of a consistency model.

Paper: Oertell et al., "RL for Consistency Models: Faster Reward Guided Text-to-Image Generation",
arXiv 2404.03673, read in its released code.

    episode     H steps: map x_τ to a picture f_θ = c_skip x_τ + c_out x̂0, then back to less noise
    step        p_θ(x_τ' | x_τ) = N(√ᾱ_τ' f_θ(x_τ, c, w), (1 - ᾱ_τ') I), in
                components/diffusion/consistency_sampler.py; the last map gives the image and has no
                likelihood, so that H - 1 steps are trained on
    loss        that of ddpo.py (DDPO_IS), advantages in ±10

The network is told the guidance weight w; there is no second pass without a prompt.

Left out: REBEL, the regression on differences of rewards that the repository has too (rebel.py);
the learning rate's slow linear fall.

Deviations: as in ddpo.py.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.finetuning.algorithms.ddpo import PolicyGradientSettings
from components.finetuning.requirements import Requirements


class RLCMSettings(PolicyGradientSettings):
    """Settings of RLCM; the defaults are the released ones for aesthetics on one device."""

    name: Literal["rlcm"] = "rlcm"
    learning_rate: float = Field(default=1.0e-4, gt=0.0, le=1.0)
    """Of the LoRA."""
    max_grad_norm: float = Field(default=5.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    prompts_per_round: int = Field(default=80, ge=1)
    """Prompts drawn for each round, balanced over categories: ten batches of eight."""
    group_size: int = Field(default=1, ge=1)
    """Images of each of them."""
    updates_per_epoch: int = Field(default=10, ge=1)
    """Optimizer steps of a pass over the round, of eight images each."""
    advantage_clip: float = Field(default=10.0, gt=0.0)
    """Advantages are kept in ± this."""

    def requires(self) -> Requirements:
        """A consistency model with a step that re-noises."""
        return Requirements(likelihood=True, families=("consistency",), min_steps=2)
