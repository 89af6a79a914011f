"""The `evaluation` block of `params.yaml`."""

from __future__ import annotations

from pydantic import Field

from components.contracts.settings import PluginSettings, StrictModel
from components.rewards.scorers.settings import ModelScorerSettings, ScorerSettings


class Settings(StrictModel):
    """How the LoRA is measured against the base."""

    samples_per_prompt: int = Field(4, ge=2, le=64)
    """Images of each prompt and model; two are the least that have a diversity."""
    prompts_per_category: int = Field(60, ge=1, le=100_000)
    """Test prompts of each category, drawn by the seed; a smaller category gives all it has."""
    judge: PluginSettings
    """Callable that returns a `Judge`. Never the reward, else the figures prove nothing."""
    reward: ScorerSettings = ModelScorerSettings()
    """The scorer that finetuning climbed, measured again: do reward and judge part ways?"""
    num_resamples: int = Field(10_000, ge=100, le=1_000_000)
    """Bootstrap resamples behind every 95 % interval."""
    grid_prompts_per_category: int = Field(2, ge=1, le=8)
    """Prompts of each category in the before/after grid: the first drawn, whatever they show."""
