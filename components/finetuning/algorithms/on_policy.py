"""What the on-policy methods' settings share: how a round is drawn and how it is passed over."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.finetuning.algorithms.optimizer import OptimizerSettings


class OnPolicySettings(OptimizerSettings):
    """A round of images, and optimizer steps on nothing but this round."""

    prompts_per_round: int = Field(default=16, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=8, ge=1)
    """Images of each of them."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over the round."""
    updates_per_epoch: int = Field(default=2, ge=1)
    """Optimizer steps of a pass: its images are shuffled and divided into so many parts, and a step
    accumulates the gradients of all chosen denoising steps of a part's images."""
    advantage_clip: float = Field(default=5.0, gt=0.0)
    """Advantages are kept in ± this."""


class GroupSettings(OnPolicySettings):
    """The members of the GRPO family compare an image with the others of its prompt.

    A group whose rewards are all equal is left out of the round and counted (`dropped_groups`).
    """

    group_size: int = Field(default=12, ge=2)
    """Images of each prompt."""
    advantage: Literal["group_standardised", "group_global_std", "group_centred"] = (
        "group_standardised"
    )
    """(r - mean of the group) over the group's deviation, over that of the round, or as it is."""
    shared_noise: bool = False
    """Whether all images of a prompt start from the same noise."""
