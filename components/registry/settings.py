"""The `registry` block of `params.yaml`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel

MODEL_NAME = r"^[A-Za-z0-9][\w.\-]{0,99}$"
"""What MLflow takes as the name of a registered model."""


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


class RewardGateSettings(StrictModel):
    """What a reward model must reach before it is registered. Figures are those of `rewards.json`
    and `rewards_audit.json`."""

    min_accuracy_low: float = Field(0.5, ge=0.0, le=1.0)
    """The 95 % interval of the accuracy on unseen prompts must lie above this; one half is a
    coin."""
    min_lead: float = Field(0.0, ge=-1.0, le=1.0)
    """Accuracy minus that of the backbone before it learnt: below 0 the labels did harm."""
    max_calibration_error: float = Field(0.1, ge=0.0, le=1.0)
    """Largest expected calibration error: how far a predicted probability is off, on average."""
    audit: bool = True
    """Whether the audit must have been passed; false takes a reward that nobody audited."""
    max_megabytes: float = Field(10_000.0, gt=0.0)
    """Largest folder, in units of 10^6 bytes."""


class RewardSettings(StrictModel):
    """Where the reward model is registered, and what it must pass."""

    model_name: str = Field("konomi-reward", pattern=MODEL_NAME)
    """Name of the registered model."""
    gates: RewardGateSettings = RewardGateSettings()


class Settings(StrictModel):
    """Where LoRA and reward model are registered, and what each must pass."""

    model_name: str = Field("konomi-lora", pattern=MODEL_NAME)
    """Name of the registered model of LoRAs."""
    gates: GateSettings = GateSettings()
    reward: RewardSettings | None = RewardSettings()
    """Null leaves the reward model alone, for a LoRA that climbed another scorer."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.reward is not None and self.reward.model_name == self.model_name:
            raise ValueError(f"LoRA and reward model cannot both be called '{self.model_name}'")
        return self

    def model_names(self) -> dict[str, str]:
        """Name of each registered model by its kind, `lora` and `reward`."""
        names = {"lora": self.model_name}
        return names if self.reward is None else names | {"reward": self.reward.model_name}
