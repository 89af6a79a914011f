"""What methods that differentiate the reward through sampling share: how many images an update
draws, and how a clean latent becomes a reward with a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

if TYPE_CHECKING:
    import torch

    from components.contracts.protocols import Scorer
    from components.diffusion import Policy
    from components.finetuning.experience.scoring import Scored


class SamplingGradientSettings(OptimizerSettings):
    """Every update draws images of its own and differentiates their rewards."""

    prompts_per_update: int = Field(default=128, ge=1)
    """Prompts of one optimizer step, balanced over categories."""
    group_size: int = Field(default=1, ge=1)
    """Images of each of them; their gradients are accumulated, `base.batch_size` at a time."""
    updates_per_round: int = Field(default=2, ge=1)
    """Optimizer steps between two looks at the drift of the images."""
    checkpointing: bool = True
    """Whether network calls and the decoder are computed again in the backward pass, in place of
    storing what is inside of them: a third more time, memory for a single call."""

    def requires(self) -> Requirements:
        """A reward that can be differentiated."""
        return Requirements(differentiable_reward=True)


def reward_of_latents(
    policy: Policy,
    scorer: Scorer,
    x0: torch.Tensor,
    texts: Sequence[str],
    checkpointing: bool,
) -> Scored:
    """Rewards [b] of clean latents [b c h w], with their graph.

    Raises:
        QuarantinedData, GuardError: rewards that must not be trained on.
        SettingsError: several rewards, and a single image.
    """
    from components.diffusion import pixels_with_gradient
    from components.finetuning.experience.scoring import score_with_gradient

    pixels = pixels_with_gradient(policy, x0, checkpointing=checkpointing)
    return score_with_gradient(scorer, pixels, texts)


def reward_metrics(scored: Scored) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of the rewards of a micro-batch, and its parts, detached."""
    import torch

    return {name: torch.tensor(value) for name, value in scored.figures().items()}
