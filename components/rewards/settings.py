"""Settings of the stage `rewards`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.contracts.settings import PluginSettings, StrictModel


class AuditSettings(StrictModel):
    """How far the reward can be trusted before anything climbs it, and how far it must be."""

    judge: PluginSettings
    """Who looks at what the reward picks (protocol `Judge`); never the reward."""
    max_prompts: int = Field(100, ge=2, le=100_000)
    """Held-out prompts whose images are looked at; fewer where there are not so many."""
    edited_per_prompt: int = Field(2, ge=1, le=1000)
    """Images of each prompt that are edited, about 35 times each: most of the audit's time."""
    num_resamples: int = Field(2000, ge=100, le=100_000)
    """Resamples of the bootstrap behind each interval."""
    min_captured: float = Field(0.3, ge=-10.0, le=1.0)
    """Of the gain of the judge's own best-of-n, the share that the reward's choice must get: the
    lower end of its 95 % interval. 0 is chance."""
    max_shortcut: float = Field(0.5, gt=0.0, le=1000.0)
    """How much one edit may raise the reward beyond what the judge grants, in spreads of the reward
    among the images of one prompt."""
    max_colour_correlation: float = Field(0.5, gt=0.0, le=1.0)
    """How far one colour statistic may order the images of a prompt as the reward does, as a rank
    correlation, beyond the judge's own."""
    min_agreement: float = Field(0.2, ge=-1.0, le=1.0)
    """Kendall's tau-b of reward and judge within a prompt: the lower end of its 95 % interval."""


class Settings(StrictModel):
    """Which CLIP becomes the reward model, and how it learns from the pairs."""

    backbone: str = Field(min_length=1)
    """Folder of a `transformers.CLIPModel` or `VisionTextDualEncoderModel` with tokenizer and image
    processor, or a hub name."""
    trainable: Literal["all", "last_layers", "heads"] = "all"
    """What learns: every weight; the last third of each tower's layers and what follows; or only
    the two projections and the logit scale. A large backbone forgets less when less of it moves."""
    epochs: int = Field(6, ge=1, le=1000)
    """Passes over the training pairs; the epoch with the lowest validation loss is kept,
    and the backbone as it was where no epoch beats it."""
    batch_size: int = Field(64, ge=1, le=65536)
    """Pairs of one update; a batch is made of whole prompts, so it can hold a few more."""
    learning_rate: float = Field(3.0e-4, gt=0.0, le=1.0)
    """Peak of AdamW's step size: a short warm-up, then a cosine to zero."""
    weight_decay: float = Field(0.01, ge=0.0, le=10.0)
    """Of matrices; biases, norms and the logit scale are left alone."""
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """How far each label is moved towards a tie, for annotators who err."""
    horizontal_flip: bool = False
    """Mirror each training image half of the time. Not for prompts that say left or right."""
    audit: AuditSettings | None = None
    """Null trusts the reward without a look."""
