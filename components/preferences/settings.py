"""The block `preferences` of params.yaml."""

from __future__ import annotations

from math import comb
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from components.contracts.settings import ONE_OR_SEVERAL, PluginSettings, StrictModel


class SourceSettings(StrictModel):
    """What every source of labels has; docs/label_data.md shows each layout."""

    path: str = Field(min_length=1)
    """A file or a folder, relative to the project; which of them, the layout says."""
    image_size: int | None = Field(None, ge=8, le=4096)
    """Side in pixels to which the central square of each picture is cut and scaled, stored without
    loss; null keeps every picture as the bytes that it is."""


class PickAPicSettings(SourceSettings):
    """Pick-a-Pic, version 1 or 2, or pairs of your own with columns of those names."""

    layout: Literal["pick_a_pic"] = "pick_a_pic"
    """Parquet as published (`caption`, `jpg_0`, `jpg_1`, `label_0`, `label_1`, ...), or a parquet,
    csv or jsonl file with `caption`, `image_0`, `image_1`, `label_0`, `label_1`, `user_id`."""
    files: str = Field("*.parquet", min_length=1)
    """Which files of a folder: published ones come in parts, and `*_unique-*` repeat others."""


class HpdSettings(SourceSettings):
    """Human Preference Dataset v2."""

    layout: Literal["hpd"] = "hpd"
    """`train.json` (chosen pictures) or `test.json` (rankings of several annotators)."""
    images: str | None = Field(None, min_length=1)
    """Folder of the pictures, relative to the project; null is the one beside the file and named
    like it: `train/` for `train.json`."""


class ImageRewardDbSettings(SourceSettings):
    """ImageRewardDB."""

    layout: Literal["image_reward_db"] = "image_reward_db"
    """`metadata-*.parquet` or one `train_1.json` of the dataset (a row a picture, with ratings), or
    the `test.json` of the paper's repository (a row a prompt, rankings only)."""
    images: str | None = Field(None, min_length=1)
    """Folder that the paths of the pictures start from, relative to the project; null is the one of
    the file."""


class FolderSettings(SourceSettings):
    """A plain folder: in it one folder a prompt, with `prompt.txt` and judged pictures."""

    layout: Literal["folder"] = "folder"
    """Pictures lie in `rank_1`, `rank_2` and so on, best first, or in `good` and `bad`."""


class TableSettings(SourceSettings):
    """A parquet, csv, tsv or jsonl file of your own, with exactly these columns."""

    layout: Literal["table"] = "table"
    """The columns depend on `kind`; every kind may have `annotator` and `category`."""
    kind: Literal["pairs", "rankings", "ratings"]
    """`caption`, `image_a`, `image_b`, `preference`; or `ranking`, `caption`, `image`, `rank`; or
    `caption`, `image`, `value` and perhaps `question`."""
    question: str = Field("good", min_length=1)
    """Of ratings without a column `question`: what people were asked."""
    low: float = 0.0
    """Of ratings: the worst answer."""
    high: float = 1.0
    """Of ratings: the best answer."""
    steps: int = Field(2, ge=0, le=1000)
    """Of ratings: how many answers there were, 2 for yes and no, 5 or 7 for a Likert scale, 0 where
    every number between the two was allowed."""

    @model_validator(mode="after")
    def _is_a_scale(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.steps == 1:
            raise ValueError("steps must be 0, or 2 or more")
        return self


AnySource = PickAPicSettings | HpdSettings | ImageRewardDbSettings | FolderSettings | TableSettings
Source = Annotated[AnySource, Field(discriminator="layout")]
ONE, SEVERAL = ONE_OR_SEVERAL


def _one_or_several(value: Any) -> str:
    return SEVERAL if isinstance(value, list | tuple) else ONE


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
    """Images in one tar; of those that are drawn, also how many are held in memory at a time."""
    people: PluginSettings | None = None
    """Who judges: a callable that returns a `components.contracts.protocols.People`."""
    label_source: (
        Annotated[
            Annotated[Source, Tag(ONE)]
            | Annotated[tuple[Source, ...], Field(min_length=1), Tag(SEVERAL)],
            Discriminator(_one_or_several),
        ]
        | None
    ) = None
    """Labels that exist already, one source or a list; then nothing is drawn and nobody is asked.
    """
    validation_fraction: float = Field(0.1, ge=0.0, lt=0.5)
    """Share of the captions of label sources, among those that `data/prompts` does not know."""
    test_fraction: float = Field(0.1, ge=0.0, lt=0.5)
    """The same for the test split."""
    max_skipped_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """Share of a published source's entries that may be left out because a picture or a label
    cannot be used; more stop the stage."""

    @property
    def sources(self) -> tuple[AnySource, ...]:
        """All label sources."""
        given = self.label_source
        return given if isinstance(given, tuple) else () if given is None else (given,)

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if (self.people is None) == (self.label_source is None):
            raise ValueError("give either people or label_source")
        named = {(source.path, getattr(source, "files", "")) for source in self.sources}
        if len(named) < len(self.sources):
            raise ValueError("two sources are the same: every label would count twice")
        possible = comb(self.samples_per_prompt, 2)
        if self.pairs_per_prompt > possible:
            raise ValueError(
                f"pairs_per_prompt must be at most {possible}, the pairs among "
                f"{self.samples_per_prompt} samples"
            )
        return self
