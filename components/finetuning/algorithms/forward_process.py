"""What the forward-process methods' settings share: rounds as on_policy.py has them, finished
images put back to random noise levels, and snapshots of the adapter that follow it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.on_policy import OnPolicySettings
from components.finetuning.requirements import Requirements


class SnapshotDecay(StrictModel):
    """How a snapshot follows the adapter: between two rounds it becomes `d · itself + (1 - d) · the
    adapter`, with `d = min(start + slope · (updates - flat_updates), highest)`, `start` before
    `flat_updates`.
    """

    start: float = Field(default=0.0, ge=0.0, lt=1.0)
    """d in the beginning; at 0 the snapshot is the adapter as the round began."""
    flat_updates: int = Field(default=0, ge=0)
    """Updates for which d stays there."""
    slope: float = Field(default=0.001, ge=0.0, le=1.0)
    """What d gains with each update from then on."""
    highest: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Where it stops rising."""

    def after(self, updates: int) -> float:
        """d after so many optimizer steps of the run."""
        rise = self.slope * max(0, updates - self.flat_updates)
        return min(self.start + rise, self.highest)


class ForwardProcessSettings(OnPolicySettings):
    """A round of finished images, each trained on at several noise levels with noise of its own."""

    group_size: int = Field(default=24, ge=2)
    """Images of each of them."""
    advantage: Literal["group_global_std", "group_standardised"] = "group_global_std"
    """The reward's distance from its group's mean, over the deviation of the round or the group."""
    num_levels: int = Field(default=4, ge=1)
    """Noise levels of each image in each pass, all different where there are so many; take a number
    that divides `base.batch_size`."""
    levels: Literal["sampler", "training"] = "sampler"
    """The sampler's own steps, or any level that the base was trained on."""
    first_step: int = Field(default=0, ge=0)
    """First step of the sampler that is trained on; 0 is the noisiest."""
    step_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the sampler's steps, from the noisiest on, behind which none is trained on."""

    def steps(self, num_steps: int) -> range:
        """The steps of a sampler that levels are drawn from: never empty if it has `first_step`."""
        # 0.29 · 100 is 28.999...: what falls short of a whole number by rounding counts as one.
        end = int(num_steps * self.step_fraction + 1e-9)
        return range(self.first_step, max(end, self.first_step + 1))

    def requires(self) -> Requirements:
        """A sampler that has the first step."""
        return Requirements(min_steps=self.first_step + 1)
