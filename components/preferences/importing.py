"""Pairs that people labelled elsewhere, in the columns of Pick-a-Pic: samples and judgements."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.nn.functional import interpolate

from components.contracts.artifacts import decode_image
from components.contracts.errors import DataError
from components.contracts.ids import prompt_id, sample_id
from components.contracts.progress import progress
from components.contracts.rows import Row, read_rows
from components.contracts.seeds import derive_seed
from components.contracts.text import clean_prompt, prompt_key
from components.preferences.records import Album, Judgement, Label, PromptRow, Sample
from components.preferences.settings import LabelSourceSettings

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

COLUMNS = ("caption", "image_0", "image_1", "label_0", "label_1")
LABELS: dict[tuple[float, float], Label] = {(1.0, 0.0): "a", (0.0, 1.0): "b", (0.5, 0.5): "tie"}
CATEGORY = "imported"
"""Of captions that `data/prompts` does not know."""


def import_labels(
    album: Album,
    source: LabelSourceSettings,
    root: Path,
    prompts: Sequence[PromptRow],
    images_per_shard: int,
    seed: int,
) -> None:
    """Fill the album from a file; a caption that stage 1 knows keeps its category and its split.

    Raises:
        DataError: file, row and what is allowed, for the first row that cannot be used.
    """
    path = root / source.path
    known = {prompt_key(prompt.prompt): prompt for prompt in prompts}
    seen: set[str] = set()
    samples: list[Sample] = []
    images: dict[str, UInt8[Tensor, "3 h w"]] = {}
    rows = list(read_rows(path, COLUMNS, optional=("user_id",)))
    with progress("importing pairs", len(rows)) as bar:
        for row in rows:
            prompt = _prompt_of(row, path, known, source, seed)
            ids = []
            for column in ("image_0", "image_1"):
                content = _picture_of(row, column, path)
                name = sample_id(prompt.prompt_id, hashlib.sha256(content).hexdigest(), 0)
                ids.append(name)
                if name not in seen:
                    seen.add(name)
                    picture = decode_image(content, file=path, place=f"{row.place}, {column}")
                    images[name] = fit_square(picture, source.image_size)
                    samples.append(Sample(name, prompt, 0))
            if ids[0] == ids[1]:
                raise DataError("compares a picture with itself", file=path, place=row.place)
            annotator = str(row.values.get("user_id") or "unknown")
            album.judgements.append(
                Judgement(prompt, ids[0], ids[1], annotator, _label_of(row, path))
            )
            if len(samples) >= images_per_shard:
                album.add_shard(samples, images, None)
                samples, images = [], {}
            bar.advance()
    if samples:
        album.add_shard(samples, images, None)


def fit_square(image: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 side side"]:
    """The central square of a picture, scaled to `side` pixels."""
    height, width = image.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[:, top : top + edge, left : left + edge]
    if edge == side:
        return square.contiguous()
    scaled = interpolate(square[None].float(), size=(side, side), mode="bicubic", antialias=True)
    return scaled[0].round().clamp(0, 255).byte()


def _prompt_of(
    row: Row, path: Path, known: dict[str, PromptRow], source: LabelSourceSettings, seed: int
) -> PromptRow:
    caption = row.values["caption"]
    text = clean_prompt(caption) if isinstance(caption, str) else ""
    if not text:
        raise DataError("caption is empty", file=path, place=row.place, allowed="some text")
    key = prompt_key(text)
    if key not in known:
        place = derive_seed(seed, "imported split", key) / 2**63
        held_out = source.test_fraction + source.validation_fraction
        split = (
            "test"
            if place < source.test_fraction
            else "validation"
            if place < held_out
            else "train"
        )
        known[key] = PromptRow(prompt_id(text), text, CATEGORY, split)
    return known[key]


def _picture_of(row: Row, column: str, path: Path) -> bytes:
    value = row.values[column]
    if isinstance(value, dict):  # how the `datasets` library stores a picture in parquet
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{column} is empty",
            file=path,
            place=row.place,
            allowed="a path, or the picture's bytes",
        )
    try:
        return (path.parent / value).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"{column} '{value[:200]}' cannot be read ({reason})",
            file=path,
            place=row.place,
            allowed="a path relative to the folder of this file",
        ) from None


def _label_of(row: Row, path: Path) -> Label:
    values = (row.values["label_0"], row.values["label_1"])
    try:
        return LABELS[float(values[0]), float(values[1])]
    except (TypeError, ValueError, KeyError):
        raise DataError(
            f"label_0 and label_1 are {str(values[0])[:40]} and {str(values[1])[:40]}",
            file=path,
            place=row.place,
            allowed="1 and 0, 0 and 1, or 0.5 and 0.5 for a tie",
        ) from None
