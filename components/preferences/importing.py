"""Fills the album with labels that exist already, whatever layout they come in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from components.contracts.artifacts import decode_image, encode_png
from components.contracts.errors import DataError, QuarantinedData
from components.contracts.ids import id_number, prompt_id, sample_id
from components.contracts.progress import progress
from components.contracts.seeds import derive_seed
from components.contracts.shards import check_picture
from components.contracts.text import clean_prompt, prompt_key
from components.preferences import label_rows
from components.preferences.known import IdSet
from components.preferences.layouts import read_labels
from components.preferences.layouts.records import (
    BAD_LABEL,
    FAULTS,
    Labelled,
    Picture,
)
from components.preferences.records import (
    Album,
    PromptRow,
    Sample,
)
from components.preferences.settings import AnySource, Settings

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

CATEGORY = "imported"
"""Of captions that neither `data/prompts` nor their source puts into another."""
CAPTIONS_AT_HAND = 4096
ENTRIES_BEFORE_CHECK = 1000
"""After as many entries a source in which too much cannot be used is given up, not at its end."""


def import_labels(
    album: Album, settings: Settings, root: Path, prompts: Sequence[PromptRow], seed: int
) -> Counter[str]:
    """Fill the album from all sources; a caption that stage 1 knows keeps its category and split.

    Returns:
        How many labels were left out, by reason.

    Raises:
        DataError: file, place and what is allowed, for the first entry that cannot be used.
        QuarantinedData: too many entries of a published source cannot be used.
    """
    skipped: Counter[str] = Counter()
    importer = _Importer(album, settings, prompts, seed)
    for source in settings.sources:
        skipped += _import(importer, source, root, settings.max_skipped_fraction)
    return skipped


def _import(importer: _Importer, source: AnySource, root: Path, max_skipped: float) -> Counter[str]:
    path = root / source.path
    skipped: Counter[str] = Counter()
    used = 0
    with progress(f"importing labels of {source.path}") as bar:
        for number, entry in enumerate(read_labels(source, root), start=1):
            kept, reasons = importer.add(entry, source.image_size)
            used += kept
            skipped.update(reasons)
            if number % ENTRIES_BEFORE_CHECK == 0:
                _check_skipped(path, used, skipped, max_skipped)
            bar.advance()
    _check_skipped(path, used, skipped, max_skipped)
    if not used:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(skipped.items()))
        raise DataError(
            f"holds no label that can be used ({counts or 'it is empty'})",
            file=path,
            allowed="one label or more",
        )
    return skipped


def _check_skipped(path: Path, used: int, skipped: Counter[str], max_skipped: float) -> None:
    faults = {reason: skipped[reason] for reason in FAULTS if skipped[reason]}
    total = used + skipped.total()
    if sum(faults.values()) > max_skipped * total:
        reasons = ", ".join(f"{reason} {count}" for reason, count in faults.items())
        raise QuarantinedData(
            f"{path}: of {total} labels too many cannot be used ({reasons}); allowed: a share of "
            f"{max_skipped:g}, preferences.max_skipped_fraction"
        )


class _Prepared(NamedTuple):
    """A picture that decodes; without bytes it is in the album already."""

    sample_id: str
    content: bytes
    extension: str


class _Importer:
    """What is known across entries: the prompts of stage 1 and the pictures in the album."""

    def __init__(
        self, album: Album, settings: Settings, prompts: Sequence[PromptRow], seed: int
    ) -> None:
        self._album, self._settings, self._seed = album, settings, seed
        self._known = {prompt_key(prompt.prompt): prompt for prompt in prompts}
        self._seen, self._rankings = IdSet(), IdSet()
        # Entries of one caption often stand close together.
        self._find = lru_cache(CAPTIONS_AT_HAND)(self._prompt)

    def add(self, entry: Labelled, image_size: int | None) -> tuple[int, list[str]]:
        """Write one entry; how many of its labels, and why the others were left out."""
        reasons = list(entry.skipped)
        if not entry.pictures:
            return 0, reasons
        prompt = self._prompt_of(entry)
        if prompt is None:
            return 0, [*reasons, BAD_LABEL]
        found = [self._prepare(entry, picture, prompt, image_size) for picture in entry.pictures]
        names = [picture.sample_id if picture else None for picture in found]
        groups = [
            *label_rows.judgements(entry, prompt, names, reasons),
            *label_rows.rankings(entry, prompt, names, reasons, self._rankings),
            *label_rows.ratings(entry, prompt, names, reasons),
        ]
        used = {name for group in groups for label in group for name in label.sample_ids}
        for picture in found:
            if picture and picture.sample_id in used and self._is_new(picture.sample_id):
                sample = Sample(picture.sample_id, prompt, 0)
                self._album.add_picture(sample, picture.content, picture.extension)
        for group in groups:
            self._album.add(group)
        return len(groups), reasons

    def _is_new(self, name: str) -> bool:
        return self._seen.add(id_number(name))

    def _prompt_of(self, entry: Labelled) -> PromptRow | None:
        caption = entry.caption
        prompt = self._find(caption, entry.category) if isinstance(caption, str) else None
        if prompt is None and not entry.published:
            raise entry.fault("caption is empty", "some text")
        return prompt

    def _prompt(self, caption: str, category: str) -> PromptRow | None:
        text = clean_prompt(caption)
        if not text:
            return None
        key = prompt_key(text)
        if key in self._known:
            return self._known[key]
        # By the key, so that two spellings of a caption are never on two sides of a split.
        place = derive_seed(self._seed, "imported split", key) / 2**63
        test = self._settings.test_fraction
        held_out = test + self._settings.validation_fraction
        split = "test" if place < test else "validation" if place < held_out else "train"
        return PromptRow(prompt_id(text), text, category or CATEGORY, split)

    def _prepare(
        self, entry: Labelled, picture: Picture, prompt: PromptRow, image_size: int | None
    ) -> _Prepared | None:
        try:
            content = _read(entry, picture)
            name = sample_id(prompt.prompt_id, hashlib.sha256(content).hexdigest(), 0)
            if id_number(name) in self._seen:
                return _Prepared(name, b"", "")
            place = f"{entry.place}, {picture.name}" if entry.place else picture.name
            extension = check_picture(content, file=entry.file, place=place)
            if image_size is not None:
                image = decode_image(content, file=entry.file, place=place)
                content, extension = encode_png(fit_square(image, image_size)), "png"
        except DataError:
            if entry.published:
                return None
            raise
        return _Prepared(name, content, extension)


def _read(entry: Labelled, picture: Picture) -> bytes:
    if isinstance(picture.content, bytes):
        return picture.content
    try:
        return picture.content.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise entry.fault(
            f"{picture.name} '{str(picture.content)[-200:]}' cannot be read ({reason})",
            "a path relative to the folder of this file",
        ) from None


def fit_square(image: UInt8[Tensor, "3 h w"], side: int) -> UInt8[Tensor, "3 side side"]:
    """The central square of a picture, scaled to `side` pixels."""
    from torch.nn.functional import interpolate

    height, width = image.shape[1:]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = image[:, top : top + edge, left : left + edge]
    if edge == side:
        return square.contiguous()
    scaled = interpolate(square[None].float(), size=(side, side), mode="bicubic", antialias=True)
    return scaled[0].round().clamp(0, 255).byte()
