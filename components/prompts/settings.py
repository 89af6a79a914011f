"""The block `prompts` of params.yaml."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from components.contracts.settings import StrictModel


class SourceSettings(StrictModel):
    """One file of prompts."""

    path: str = Field(min_length=1)
    """A .txt (one prompt a line), .csv, .tsv, .jsonl or .parquet file, relative to the project."""
    column: str = Field("prompt", min_length=1)
    """Which column holds the prompts; a .txt file has no columns."""
    category_column: str | None = None
    """Which column holds the category; without one, all prompts have `category`."""
    category: str = Field("uncategorised", min_length=1)
    """Category of a prompt that has none of its own."""


class Settings(StrictModel):
    """Where prompts come from, which are kept, and how they are split."""

    sources: list[SourceSettings] = Field(min_length=1)
    """Read in this order; of duplicates the first is kept."""
    max_characters: int = Field(300, ge=1, le=100_000)
    """A longer prompt is dropped."""
    invisible_characters: Literal["remove", "refuse"] = "remove"
    """Control and zero-width characters: taken out of the prompt, or a reason to drop it."""
    max_dropped_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Above this share of dropped rows the sources are refused as bad data (exit status 65)."""
    validation_fraction: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of each category that chooses between models."""
    test_fraction: float = Field(0.25, ge=0.0, lt=1.0)
    """Share of each category that nothing is trained or chosen on."""

    @model_validator(mode="after")
    def _leave_prompts_to_train_on(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1.0:
            raise ValueError("validation_fraction and test_fraction must sum to less than 1")
        return self
