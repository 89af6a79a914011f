"""What people said of which images: everything that the stage `preferences` wrote, joined by id.

A million judgements take some 40 bytes each; the pictures stay on the disk (`images.py`) and the
texts of the prompts in one block of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float32, Int, Int32, Int64
from torch import Tensor

from components.contracts.errors import DataError
from components.contracts.tables import PAIRS, RANKINGS, RATINGS
from components.rewards.images import CACHE_MEGABYTES, ImageStore, Resize
from components.rewards.label_checks import check_pairs, check_rankings, check_ratings
from components.rewards.label_tables import SPLITS, TableReader, read_samples
from components.rewards.texts import Texts

Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Pairs:
    """Judgements of one split; images are rows of `Preferences.images`."""

    image_a: Int64[Tensor, " n"]
    image_b: Int64[Tensor, " n"]
    preference: Float32[Tensor, " n"]
    """Share of a win for a: 1 where a was preferred, 0 where b was, 0.5 for a tie; a soft label is
    anything between."""
    annotator: Int32[Tensor, " n"]
    """Place in `Preferences.annotators`."""
    category: Int32[Tensor, " n"]
    """Place in `Preferences.categories`."""
    ranking: Int32[Tensor, " n"]
    """The ranking of `Rankings.ranking` that the judgement was read off; -1 for none."""

    def __len__(self) -> int:
        return len(self.image_a)


@dataclass(frozen=True)
class Rankings:
    """Rankings of one split, an entry for each image in one."""

    image: Int64[Tensor, " n"]
    rank: Int32[Tensor, " n"]
    """Lower is better, equal ranks are a tie."""
    ranking: Int32[Tensor, " n"]
    """0 to the number of rankings - 1."""
    annotator: Int32[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Ratings:
    """Answers of one split about single images."""

    image: Int64[Tensor, " n"]
    question: Int32[Tensor, " n"]
    """Place in `Preferences.questions`."""
    value: Float32[Tensor, " n"]
    """In [low, high], higher is better."""
    low: Float32[Tensor, " n"]
    high: Float32[Tensor, " n"]
    steps: Int32[Tensor, " n"]
    """How many answers there were: 2 for yes and no, 0 for every number."""
    annotator: Int32[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Preferences:
    """Every judged image once, by rising sample id, its prompt, and what was said by split."""

    images: ImageStore
    prompts: Sequence[str]
    """In the order of their texts."""
    prompt_of: Int64[Tensor, " m"]
    """Row of `prompts` for each image."""
    splits: Mapping[str, Pairs]
    rankings: Mapping[str, Rankings]
    ratings: Mapping[str, Ratings]
    annotators: tuple[str, ...]
    categories: tuple[str, ...]
    questions: tuple[str, ...]


def read_preferences(
    folder: Path, resize: Resize, cache_megabytes: int = CACHE_MEGABYTES
) -> Preferences:
    """Read and check `folder`.

    Args:
        folder: `data/preferences`.
        resize: brings each image to one size when it is read.
        cache_megabytes: how much of the images is kept in memory.

    Raises:
        DataError: a file is missing or damaged, a label, a split or a number is not what it can be,
            a judgement names an image that is not there or is of another prompt, or a split holds
            nothing to learn from.
        QuarantinedData: a prompt stands in two splits, so that held-out figures would be too good.
    """
    pairs_path = folder / "pairs.parquet"
    samples = read_samples(folder / "samples.parquet")
    reader = TableReader(folder, samples)
    pairs = reader.read(
        PAIRS,
        ("sample_id_a", "sample_id_b"),
        ("annotator", "category", "label", "preference", "ranking_id"),
        check_pairs,
    )
    rankings = reader.read(RANKINGS, ("sample_id",), ("annotator", "ranking_id", "rank"))
    ratings = reader.read(
        RATINGS,
        ("sample_id",),
        ("annotator", "question", "value", "low", "high", "steps"),
        check_ratings,
    )
    check_rankings(folder / "rankings.parquet", rankings, samples.prompt)

    sides = (
        pairs["sample_id_a"],
        pairs["sample_id_b"],
        rankings["sample_id"],
        ratings["sample_id"],
    )
    judged = np.zeros(len(samples.number), bool)
    for rows in sides:
        judged[rows] = True
    row_of = np.cumsum(judged) - 1
    owner = samples.prompt[judged]
    texts, prompt_of = _prompts(samples.prompts, owner)
    by_split = {
        split: _of_split(number, pairs, rankings, ratings, row_of, pairs_path)
        for number, split in enumerate(SPLITS)
    }
    return Preferences(
        images=ImageStore(folder / "images", samples.number[judged], resize, cache_megabytes),
        prompts=texts,
        prompt_of=prompt_of,
        splits={split: found[0] for split, found in by_split.items()},
        rankings={split: found[1] for split, found in by_split.items()},
        ratings={split: found[2] for split, found in by_split.items()},
        annotators=reader.annotators.names,
        categories=reader.categories.names,
        questions=reader.questions.names,
    )


def _prompts(
    texts: pa.StringArray, owner: Int[np.ndarray, " m"]
) -> tuple[Texts, Int64[Tensor, " m"]]:
    """The texts of the prompts that are used, sorted, and the place of each image's own."""
    used = np.unique(owner)
    chosen = texts.take(pa.array(used))
    order = pc.sort_indices(chosen).to_numpy()
    place = np.zeros(len(texts), np.int64)
    place[used[order]] = np.arange(len(used))
    return Texts(chosen.take(pa.array(order))), torch.from_numpy(place[owner])


def _of_split(
    number: int,
    pairs: Columns,
    rankings: Columns,
    ratings: Columns,
    row_of: Int[np.ndarray, " s"],
    path: Path,
) -> tuple[Pairs, Rankings, Ratings]:
    here, ranked, rated = (table["split"] == number for table in (pairs, rankings, ratings))
    preference = pairs["preference"][here]
    # Ratings can be learnt from; what is held out is measured on pairs.
    enough = SPLITS[number] == "train" and rated.any()
    if not (preference != 0.5).any() and not enough:
        raise DataError(
            f"holds {len(preference)} pairs of split '{SPLITS[number]}' and none with a winner",
            file=path,
            allowed="at least one pair with label a or b in each of " + ", ".join(SPLITS),
        )
    names, ranking = np.unique(rankings["ranking_id"][ranked], return_inverse=True)
    source = pairs["ranking_id"][here]
    place = np.searchsorted(names, source)
    missing = (source != 0) & (np.append(names, np.uint64(0))[place] != source)
    if missing.any():
        raise DataError(
            f"ranking 'r_{source[missing][0]:016x}' is not in rankings.parquet", file=path
        )

    def tensor(table: Columns, name: str, chosen: Bool[np.ndarray, " n"], kind: type) -> Tensor:
        return torch.from_numpy(table[name][chosen].astype(kind))

    def images(table: Columns, name: str, chosen: Bool[np.ndarray, " n"]) -> Tensor:
        return torch.from_numpy(row_of[table[name][chosen]].astype(np.int64))

    return (
        Pairs(
            image_a=images(pairs, "sample_id_a", here),
            image_b=images(pairs, "sample_id_b", here),
            preference=torch.from_numpy(preference),
            annotator=tensor(pairs, "annotator", here, np.int32),
            category=tensor(pairs, "category", here, np.int32),
            ranking=torch.from_numpy(np.where(source == 0, -1, place).astype(np.int32)),
        ),
        Rankings(
            image=images(rankings, "sample_id", ranked),
            rank=tensor(rankings, "rank", ranked, np.int32),
            ranking=torch.from_numpy(ranking.astype(np.int32)),
            annotator=tensor(rankings, "annotator", ranked, np.int32),
        ),
        Ratings(
            image=images(ratings, "sample_id", rated),
            **{
                name: tensor(ratings, name, rated, kind)
                for name, kind in (
                    ("question", np.int32),
                    ("value", np.float32),
                    ("low", np.float32),
                    ("high", np.float32),
                    ("steps", np.int32),
                    ("annotator", np.int32),
                )
            },
        ),
    )
