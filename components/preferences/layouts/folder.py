"""A plain folder of pictures that somebody has sorted by hand.

    labels/
      red cat/              a folder a prompt, whatever its name
        prompt.txt          the prompt
        rank_1/a.png        the best; pictures of one rank tie
        rank_2/b.png c.jpg
      two dogs/
        prompt.txt
        good/d.png
        bad/e.png

`rank_*` folders make one ranking, `good` and `bad` a yes or no for each picture; a prompt may have
both. Nobody is named: for several annotators take the layout `table`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from components.contracts.errors import DataError
from components.contracts.streams import open_text
from components.preferences.layouts.records import Labelled, Picture, Ranking, Rating
from components.preferences.settings import FolderSettings

ANSWERS = {"bad": 0.0, "good": 1.0}
QUESTION = "good"
_RANK = re.compile(r"rank_(\d{1,6})")
ALLOWED = "prompt.txt and the folders rank_1, rank_2, ..., good, bad"


def read(settings: FolderSettings, root: Path) -> Iterator[Labelled]:
    """One prompt a folder, in the order of the folders' names."""
    path = root / settings.path
    if not path.is_dir():
        raise DataError("no such folder", file=path)
    folders = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if not folders:
        raise DataError("is empty", file=path, allowed="a folder a prompt")
    for name in folders:
        if not (path / name).is_dir():
            raise DataError("is no folder", file=path / name, allowed="a folder a prompt")
        yield _prompt(path / name)


def _prompt(folder: Path) -> Labelled:
    with open_text(folder / "prompt.txt", "\n") as text:
        caption = text.read()
    pictures: list[Picture] = []
    ranks: list[int | None] = []
    ratings: list[Rating] = []
    for part in sorted(folder.iterdir()):
        if part.name == "prompt.txt" or part.name.startswith("."):
            continue
        rank = _RANK.fullmatch(part.name)
        if not part.is_dir() or not (rank or part.name in ANSWERS):
            raise DataError("is not of this layout", file=part, allowed=ALLOWED)
        for file in sorted(part.iterdir()):
            if file.name.startswith("."):
                continue
            if not rank:
                value = ANSWERS[part.name]
                ratings.append(Rating(len(pictures), QUESTION, value, 0.0, 1.0, 2))
            ranks.append(int(rank[1]) if rank else None)
            pictures.append(Picture(file, f"{part.name}/{file.name}"))
    ranked = sum(rank is not None for rank in ranks)
    if ranked == 1 or not pictures:
        raise DataError(
            f"holds {ranked} ranked pictures and {len(ratings)} others",
            file=folder,
            allowed="two pictures or more in rank folders, or some in good and bad",
        )
    return Labelled(
        folder,
        "",
        caption,
        pictures=tuple(pictures),
        rankings=(Ranking(tuple(ranks), name=folder.name),) if ranked else (),
        ratings=tuple(ratings),
        published=False,
    )
