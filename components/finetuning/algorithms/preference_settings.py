"""What the methods on preferences share: where pairs come from, and how an error is measured.

Light to import: no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel
from components.finetuning.algorithms.optimizer import OptimizerSettings
from components.finetuning.requirements import Requirements

PREFERENCES = Path("data/preferences")
"""What the stage `preferences` wrote, in the project's folder."""
ErrorKind = Literal["latent", "perceptual"]
LevelSource = Literal["sampler", "training"]


class PeoplePairs(StrictModel):
    """Judgements of people on the training prompts, as the stage `preferences` collected them."""

    source: Literal["people"] = "people"
    annotators: Literal["all", "majority"] = "all"
    """Every judgement is a pair, or every pair of images is one, won by most of its judgements."""
    ties: Literal["drop", "keep"] = "drop"
    """Pairs without a winner; kept, each side has half a win (diffusion_dpo and cpo)."""
    winners: Literal["all", "absolute"] = "all"
    """`absolute` keeps pairs whose winner never lost or tied and won more than once (NCP's filter
    of Pick-a-Pic)."""


class RewardPairs(StrictModel):
    """Images drawn once from the reference and ordered by the reward."""

    source: Literal["reward"]
    num_prompts: int = Field(default=96, ge=1)
    """Training prompts, balanced over categories."""
    images_per_prompt: int = Field(default=8, ge=2)
    """Images of each."""
    choose: Literal["best_worst", "all"] = "best_worst"
    """Pairs of a prompt: the best image with the worst, or every two whose rewards differ."""


class WinnersOnly(StrictModel):
    """Images that people preferred, each once and without those that they were preferred to."""

    source: Literal["winners"]
    annotators: Literal["all", "majority"] = "all"
    """As in source people."""
    winners: Literal["all", "absolute"] = "all"
    """As in source people."""


PairSettings = Annotated[
    PeoplePairs | RewardPairs | WinnersOnly,
    Field(discriminator="source"),
]


class ErrorSettings(OptimizerSettings):
    """How the denoising error of a sample is measured; the optimizer is Diffusion-DPO's."""

    learning_rate: float = Field(default=2.048e-5, gt=0.0, le=1.0)
    """Of the LoRA: 1e-8 for each of the 2,048 pairs of an update."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this norm before each update."""
    warmup_updates: int = Field(default=500, ge=0)
    """Updates over which the learning rate rises linearly to its value."""
    error: ErrorKind = "latent"
    """Squared error of the prediction, or of features of x_{t-1} in the frozen U-Net (NCP)."""
    noise_levels: LevelSource = "training"
    """Timesteps are drawn from all that the base was trained on, or from the sampler's own."""

    def requires(self) -> Requirements:
        """A model trained to denoise; for perceptual errors a U-Net."""
        if self.error == "perceptual":
            return Requirements(families=("unet",))
        # A consistency model's output lands on the clean image at once: its denoising error is
        # nothing that it was trained to lower.
        return Requirements(families=("unet", "flow"))


class PreferenceSettings(ErrorSettings):
    """What every method on stored preferences has."""

    pairs: PairSettings = PeoplePairs()
    """Where preferences come from."""
    updates_per_round: int = Field(default=100, ge=1)
    """Optimizer steps between two checkpoints."""

    needs_losers: ClassVar[bool] = True
    """Whether the method cannot do without the images that lost."""
    takes_ties: ClassVar[bool] = False
    """Whether a tie tells the method something."""

    @property
    def reads_preferences(self) -> bool:
        """Whether the run depends on `data/preferences`."""
        return self.pairs.source != "reward"

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> PreferenceSettings:
        name = getattr(self, "name", "this method")
        if self.needs_losers and self.pairs.source == "winners":
            raise ValueError(
                f"{name} pushes away from losers, and pairs.source winners has none; "
                "allowed: pairs.source people or reward, or method sft or dco"
            )
        if not self.takes_ties and self.pairs.source == "people" and self.pairs.ties == "keep":
            raise ValueError(
                f"{name} learns from the side that won, and a tie has none; "
                "allowed: pairs.ties drop, or method diffusion_dpo or cpo"
            )
        return self


class Calibrated(StrictModel):
    """The temperature of a preference loss, given or measured."""

    dpo_beta: float = Field(default=2500.0, gt=0.0)
    """β; without the factor ½ that Diffusion-DPO's code puts before it."""
    calibrate: float | None = Field(default=None, gt=0.0)
    """Standard deviation that logits are to have where predictions are off by 1e-3: measured
    before training, β follows from it and `dpo_beta` is not used. Null takes `dpo_beta`."""
