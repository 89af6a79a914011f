"""Human Preference Dataset v2 (2306.09341), as `ymhao/HPDv2` publishes it.

`train.json` is a list of `{prompt, image_path, human_preference}`: two pictures, 1 for the chosen
one. `test.json` is a list of `{prompt, image_path, rank, raw_annotations}`: nine pictures, a rank
for each from 0 for the best, by ten annotators (`{annotation, user_hash}`) and by their average.
The dataset's card calls the paths `file_path` and the ranks of one annotator `rank`; both spellings
are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.contracts.errors import DataError
from components.contracts.streams import read_json_items
from components.preferences.layouts.records import (
    BAD_LABEL,
    UNKNOWN,
    Comparison,
    Labelled,
    Picture,
    Ranking,
    as_rank,
    is_list_of,
    text_or,
)
from components.preferences.settings import HpdSettings

AVERAGE = "average"
"""The annotator of a ranking that is published without those that it is the average of."""


def read(settings: HpdSettings, root: Path) -> Iterator[Labelled]:
    """One prompt an item, in the order of the file."""
    path = root / settings.path
    folder = root / settings.images if settings.images else path.with_suffix("")
    for place, item in read_json_items(path):
        names = item.get("image_path", item.get("file_path"))
        if not is_list_of(names, str) or len(names) < 2:
            raise DataError(
                "has no image_path with two paths or more",
                file=path,
                place=place,
                allowed="an item of train.json or test.json",
            )
        pictures = tuple(Picture(folder / name, f"picture {name[:80]}") for name in names)
        comparisons, rankings, skipped = _labels(item, len(names), path, place)
        yield Labelled(
            path,
            place,
            item.get("prompt"),
            pictures=pictures if comparisons or rankings else (),
            comparisons=comparisons,
            rankings=rankings,
            skipped=skipped,
        )


def _labels(
    item: Mapping[str, Any], count: int, path: Path, place: str
) -> tuple[tuple[Comparison, ...], tuple[Ranking, ...], tuple[str, ...]]:
    if "human_preference" in item:
        chosen = item["human_preference"]
        if not is_list_of(chosen, int, count) or sorted(chosen) != [0] * (count - 1) + [1]:
            return (), (), (BAD_LABEL,)
        best, person = chosen.index(1), text_or(item.get("user_hash"), UNKNOWN)
        # The chosen picture beat each of the others; of those among themselves nothing is known.
        return (
            tuple(
                Comparison(min(best, other), max(best, other), float(best < other), person)
                for other in range(count)
                if other != best
            ),
            (),
            (),
        )
    said = item.get("raw_annotations", item.get("raw_annotation"))
    if said and is_list_of(said, dict):
        given = [
            (entry.get("annotation", entry.get("rank")), entry.get("user_hash")) for entry in said
        ]
    elif "rank" in item and not said:
        given = [(item["rank"], AVERAGE)]
    else:
        raise DataError(
            "has no label",
            file=path,
            place=place,
            allowed="human_preference, rank, or raw_annotations with one object an annotator",
        )
    rankings = tuple(
        Ranking(tuple(map(as_rank, ranks)), text_or(person, UNKNOWN), f"{place}, {number}")
        for number, (ranks, person) in enumerate(given)
        if is_list_of(ranks, (int, float), count)
    )
    return (), rankings, (BAD_LABEL,) * (len(given) - len(rankings))
