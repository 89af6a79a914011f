"""The block `preferences` of params.yaml."""

from __future__ import annotations

from math import comb
from typing import Self

from pydantic import Field, model_validator

from components.contracts.settings import PluginSettings, StrictModel


class LabelSourceSettings(StrictModel):
    """A file of pairs that people have labelled already, in the columns of Pick-a-Pic.

    Columns: `caption`; `image_0` and `image_1`, paths beside the file or bytes (parquet); `label_0`
    and `label_1`, 1 and 0 for a choice or 0.5 and 0.5 for a tie; `user_id` where annotators are
    known.
    """

    path: str = Field(min_length=1)
    """A .parquet, .csv or .jsonl file, relative to the project."""
    image_size: int = Field(512, ge=8, le=4096)
    """Side in pixels to which every picture is cropped and scaled: a batch is one tensor."""
    validation_fraction: float = Field(0.1, ge=0.0, lt=0.5)
    """Share of the captions, among those that `data/prompts` does not know."""
    test_fraction: float = Field(0.1, ge=0.0, lt=0.5)
    """Share of the captions, among those that `data/prompts` does not know."""


class Settings(StrictModel):
    """Which images are compared, and by whom. Give either `people` or `label_source`."""

    prompts_per_category: int = Field(60, ge=1)
    """Training prompts of each category from which candidate images are drawn."""
    held_out_prompts_per_category: int = Field(15, ge=1)
    """The same for the validation and for the test split: there a reward model is measured."""
    samples_per_prompt: int = Field(8, ge=2, le=1000)
    """Images of one prompt, each from noise of its own."""
    pairs_per_prompt: int = Field(8, ge=1)
    """Comparisons within one prompt; every image takes part in about as many."""
    annotators_per_pair: int = Field(1, ge=1)
    """Different people who judge a pair; 2 or more show how far they agree."""
    images_per_shard: int = Field(1024, ge=1)
    """Images in one tar; also how many are held in memory at a time."""
    people: PluginSettings | None = None
    """Who judges: a callable that returns a `components.contracts.protocols.People`."""
    label_source: LabelSourceSettings | None = None
    """Labels that exist already; then nothing is drawn and nobody is asked."""

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if (self.people is None) == (self.label_source is None):
            raise ValueError("give either people or label_source")
        possible = comb(self.samples_per_prompt, 2)
        if self.pairs_per_prompt > possible:
            raise ValueError(
                f"pairs_per_prompt must be at most {possible}, the pairs among "
                f"{self.samples_per_prompt} samples"
            )
        return self
