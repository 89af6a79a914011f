"""What the stage collects, prompts, samples of them and what was said of them, and its album."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from components.contracts.artifacts import write_image_shard, write_safetensors
from components.contracts.ids import pair_id
from components.contracts.shards import ShardWriter, shard_path
from components.contracts.tables import (
    PAIRS,
    PROMPTS,
    RANKINGS,
    RATINGS,
    SAMPLES,
    TableSchema,
    TableWriter,
    label_of,
    read_table,
)

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt and where it belongs."""

    prompt_id: str
    prompt: str
    category: str
    split: str

    @property
    def columns(self) -> dict[str, str]:
        """The columns that every table repeats."""
        return {
            "prompt_id": self.prompt_id,
            "prompt": self.prompt,
            "category": self.category,
            "split": self.split,
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a prompt."""

    sample_id: str
    prompt: PromptRow
    seed: int
    """Of its noise; 0 for a picture that was brought along."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one annotator said about two samples of one prompt, a shown first."""

    prompt: PromptRow
    sample_id_a: str
    sample_id_b: str
    annotator: str
    preference: float
    """Share of a win for a: 1, 0, 0.5 for a tie, or anything between."""
    ranking_id: str = ""
    """Of the ranking that this was read off."""

    @property
    def columns(self) -> dict[str, Any]:
        """A row of `PAIRS`."""
        # As it is stored: a number that is a half there must be a tie here.
        preference = float(np.float32(self.preference))
        return {
            "pair_id": pair_id(self.sample_id_a, self.sample_id_b),
            **self.prompt.columns,
            "sample_id_a": self.sample_id_a,
            "sample_id_b": self.sample_id_b,
            "annotator": self.annotator,
            "preference": preference,
            "label": label_of(preference),
            "ranking_id": self.ranking_id,
        }

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The samples that it is about."""
        return (self.sample_id_a, self.sample_id_b)


@dataclass(frozen=True, slots=True)
class RankedSample:
    """The place of one sample in a ranking; lower is better."""

    prompt: PromptRow
    ranking_id: str
    annotator: str
    sample_id: str
    rank: int

    @property
    def columns(self) -> dict[str, Any]:
        """A row of `RANKINGS`."""
        return {
            **self.prompt.columns,
            "ranking_id": self.ranking_id,
            "annotator": self.annotator,
            "sample_id": self.sample_id,
            "rank": self.rank,
        }

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The sample that it is about."""
        return (self.sample_id,)


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer about one sample, in [low, high]; `steps` answers there were to choose from."""

    prompt: PromptRow
    annotator: str
    sample_id: str
    question: str
    value: float
    low: float
    high: float
    steps: int

    @property
    def columns(self) -> dict[str, Any]:
        """A row of `RATINGS`."""
        return {
            **self.prompt.columns,
            "annotator": self.annotator,
            "sample_id": self.sample_id,
            "question": self.question,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "steps": self.steps,
        }

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """The sample that it is about."""
        return (self.sample_id,)


Label = Judgement | RankedSample | Rated


def read_prompts(folder: Path) -> list[PromptRow]:
    """All prompts of stage 1, each with its split."""
    return [
        PromptRow(row["prompt_id"], row["prompt"], row["category"], split)
        for split in SPLITS
        for row in read_table(folder / f"{split}.parquet", PROMPTS).to_pylist()
    ]


class Album:
    """The folder `data/preferences` while it is being written, piece by piece.

    Tables and shards grow as rows and images come; nothing is kept in memory but the last few
    thousand rows. A `with` block finishes the files.
    """

    def __init__(self, folder: Path, images_per_shard: int = 1024) -> None:
        self.folder = folder
        self._num_shards = 0
        self._pictures = ShardWriter(folder / "images", images_per_shard)
        schemas = (SAMPLES, PAIRS, RANKINGS, RATINGS)
        self._tables = {
            schema.name: TableWriter(folder / f"{schema.name}.parquet", schema)
            for schema in schemas
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._pictures.close()
            for table in self._tables.values():
                table.close()

    def add_shard(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, UInt8[Tensor, "3 h w"]],
        latents: Mapping[str, Float32[Tensor, "c h w"]] | None,
    ) -> None:
        """Write images that were drawn, and the latents where there are any, by sample id."""
        shard = f"{self._num_shards:05d}"
        self._num_shards += 1
        write_image_shard(shard_path(self.folder / "images", shard), images)
        if latents is not None:
            write_safetensors(
                self.folder / "latents" / f"latents-{shard}.safetensors", dict(latents)
            )
        for sample in samples:
            self._add_sample(sample, shard)

    def add_picture(self, sample: Sample, content: bytes, extension: str) -> None:
        """Write a picture that was brought along, as the bytes that it is."""
        self._add_sample(sample, self._pictures.add(sample.sample_id, content, extension))

    def add(self, labels: Iterable[Label]) -> None:
        """Write what was said, each into its table."""
        for label in labels:
            self._tables[_TABLE_OF[type(label)].name].append([label.columns])

    def _add_sample(self, sample: Sample, shard: str) -> None:
        row = {
            **sample.prompt.columns,
            "sample_id": sample.sample_id,
            "seed": sample.seed,
            "shard": shard,
        }
        self._tables[SAMPLES.name].append([row])


_TABLE_OF: dict[type[Label], TableSchema] = {
    Judgement: PAIRS,
    RankedSample: RANKINGS,
    Rated: RATINGS,
}
