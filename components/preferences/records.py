"""What the stage collects: prompts, samples of them, judgements on pairs of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from components.contracts.artifacts import write_image_shard, write_safetensors
from components.contracts.ids import pair_id
from components.contracts.tables import PAIRS, PROMPTS, SAMPLES, read_table, write_table

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from torch import Tensor

SPLITS = ("train", "validation", "test")
Label = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class PromptRow:
    """A prompt and where it belongs."""

    prompt_id: str
    prompt: str
    category: str
    split: str


@dataclass(frozen=True)
class Sample:
    """One image of a prompt."""

    sample_id: str
    prompt: PromptRow
    seed: int
    """Of its noise; 0 for a picture that was brought along."""


@dataclass(frozen=True)
class Judgement:
    """What one annotator said about two samples of one prompt, a shown first."""

    prompt: PromptRow
    sample_id_a: str
    sample_id_b: str
    annotator: str
    label: Label

    @property
    def pair_id(self) -> str:
        """The same for both orders of the two samples."""
        return pair_id(self.sample_id_a, self.sample_id_b)

    @property
    def choice(self) -> str:
        """The sample that was preferred, `tie` for none: does not depend on the sides."""
        return {"a": self.sample_id_a, "b": self.sample_id_b, "tie": "tie"}[self.label]


def read_prompts(folder: Path) -> list[PromptRow]:
    """All prompts of stage 1, each with its split."""
    return [
        PromptRow(row["prompt_id"], row["prompt"], row["category"], split)
        for split in SPLITS
        for row in read_table(folder / f"{split}.parquet", PROMPTS).to_pylist()
    ]


class Album:
    """The folder `data/preferences` while it is being written: shards first, tables at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self.judgements: list[Judgement] = []
        self._shards: list[str] = []

    def add_shard(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, UInt8[Tensor, "3 h w"]],
        latents: Mapping[str, Float32[Tensor, "c h w"]] | None,
    ) -> None:
        """Write the images, and the latents where there are any, of `samples` by sample id."""
        shard = f"{len(set(self._shards)):05d}"
        write_image_shard(self.folder / "images" / f"images-{shard}.tar", images)
        if latents is not None:
            write_safetensors(
                self.folder / "latents" / f"latents-{shard}.safetensors", dict(latents)
            )
        self.samples += samples
        self._shards += [shard] * len(samples)

    def write_tables(self) -> None:
        """Write `samples.parquet` and `pairs.parquet`."""
        samples = {
            "sample_id": [sample.sample_id for sample in self.samples],
            **_prompt_columns([sample.prompt for sample in self.samples]),
            "seed": [sample.seed for sample in self.samples],
            "shard": self._shards,
        }
        pairs = {
            "pair_id": [judgement.pair_id for judgement in self.judgements],
            **_prompt_columns([judgement.prompt for judgement in self.judgements]),
            "sample_id_a": [judgement.sample_id_a for judgement in self.judgements],
            "sample_id_b": [judgement.sample_id_b for judgement in self.judgements],
            "annotator": [judgement.annotator for judgement in self.judgements],
            "label": [judgement.label for judgement in self.judgements],
        }
        write_table(
            self.folder / "samples.parquet", pa.table(samples, schema=SAMPLES.columns), SAMPLES
        )
        write_table(self.folder / "pairs.parquet", pa.table(pairs, schema=PAIRS.columns), PAIRS)


def _prompt_columns(prompts: Sequence[PromptRow]) -> dict[str, list[str]]:
    return {
        "prompt_id": [prompt.prompt_id for prompt in prompts],
        "prompt": [prompt.prompt for prompt in prompts],
        "category": [prompt.category for prompt in prompts],
        "split": [prompt.split for prompt in prompts],
    }
