"""What methods on whole trajectories of whole groups share: how a round is drawn and passed over.

Light to import: no torch.
"""

from __future__ import annotations

from pydantic import Field

from components.finetuning.algorithms.optimizer import OptimizerSettings


class TrajectoryRoundSettings(OptimizerSettings):
    """A round of images, several of each prompt; an update sees all images of its prompts."""

    prompts_per_round: int = Field(default=32, ge=1)
    """Prompts drawn for each round, balanced over categories."""
    group_size: int = Field(default=16, ge=2)
    """Images of each of them."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over the round."""
    updates_per_epoch: int = Field(default=1, ge=1)
    """Optimizer steps of a pass: its prompts are shuffled and divided into so many parts."""
