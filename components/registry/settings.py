"""The `registry` block of `params.yaml`."""

from __future__ import annotations

from pydantic import Field

from components.contracts.settings import StrictModel


class GateSettings(StrictModel):
    """What a LoRA must reach before it is registered. Figures are those of `evaluation.json`."""

    min_difference_low: float = Field(0.0, ge=-1.0, le=1.0)
    """The 95 % interval of (correct by the LoRA minus correct by the base) must lie above this."""
    min_win_rate_low: float = Field(0.5, ge=0.0, le=1.0)
    """So must the interval of the win rate against the base; one half is a draw."""
    min_diversity_ratio: float = Field(0.7, ge=0.0)
    """Diversity of the LoRA's images over the base's: a collapsed model repeats itself."""
    max_brightness_drift: float = Field(0.1, ge=0.0, le=1.0)
    """Largest change of the mean brightness, in parts of the whole range."""
    max_saturation_drift: float = Field(0.15, ge=0.0, le=1.0)
    """Largest change of the mean saturation, likewise."""
    max_judge_error: float = Field(0.05, ge=0.0, le=1.0)
    """A judge that errs more often than this on held-out images proves nothing."""
    max_rank: int = Field(128, ge=1, le=4096)
    """Largest rank of any adapted layer."""
    max_megabytes: float = Field(512.0, gt=0.0)
    """Largest LoRA file, in units of 10^6 bytes."""


class Settings(StrictModel):
    """Where the LoRA is registered, and what it must pass."""

    model_name: str = Field("konomi-lora", pattern=r"^[A-Za-z0-9][\w.\-]{0,99}$")
    """Name of the registered model."""
    gates: GateSettings = GateSettings()
