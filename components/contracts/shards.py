"""Pictures in uncompressed tars: written as they come, found again without reading them.

A tar is a chain of headers of 512 bytes, each followed by one file. Following the chain costs a few
microseconds a picture; then any picture is one read at a known place.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from components.contracts.artifacts import IMAGE_FORMATS
from components.contracts.errors import DataError
from components.contracts.ids import id_number

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 512
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}


class ShardWriter:
    """Pictures by sample id, `images_per_shard` in each tar, in the order in which they come."""

    def __init__(self, folder: Path, images_per_shard: int) -> None:
        self._folder, self._per_shard, self._next = folder, images_per_shard, 0
        self._tar: tarfile.TarFile | None = None
        self._held = 0

    def add(self, sample_id: str, content: bytes, extension: str) -> str:
        """Write the bytes as they are and return the number of the shard, `00000` and so on."""
        if self._tar is None or self._held == self._per_shard:
            self.close()
            path = shard_path(self._folder, f"{self._next:05d}")
            path.parent.mkdir(parents=True, exist_ok=True)
            # The plainest headers; those of `w` alone cost twice as much to make and say no more.
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._next, self._held = self._next + 1, 0
        entry = tarfile.TarInfo(f"{sample_id}.{extension}")
        entry.size = len(content)
        self._tar.addfile(entry, io.BytesIO(content))
        self._held += 1
        return f"{self._next - 1:05d}"

    def close(self) -> None:
        """Finish the tar that is being written; more pictures start another one."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


class ShardIndex(NamedTuple):
    """Where the pictures of one tar lie, in its order."""

    number: np.ndarray
    """uint64 [n], of the sample ids."""
    offset: np.ndarray
    """int64 [n], of the picture's first byte in the tar."""
    length: np.ndarray
    """int32 [n], in bytes."""


def shard_path(folder: Path, shard: str) -> Path:
    """The tar of a shard number in the folder `images`."""
    return folder / f"images-{shard}.tar"


def read_shard_index(path: Path) -> ShardIndex:
    """Follow the headers of a tar that `ShardWriter` or `write_image_shard` wrote.

    Raises:
        DataError: the tar is missing, truncated, damaged in a header, or holds something else than
            pictures that are named by sample ids.
    """
    import numpy as np

    entries = list(_entries(path))
    return ShardIndex(
        np.array([_number_of(path, name) for name, _, _ in entries], np.uint64),
        np.array([offset for _, offset, _ in entries], np.int64),
        np.array([length for _, _, length in entries], np.int32),
    )


def _entries(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each file in the tar."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    try:
        size = os.fstat(file).st_size
        place = 0
        while (header := os.pread(file, _BLOCK, place)) != bytes(_BLOCK):
            name, length = _parse(path, header, place)
            if place + _BLOCK + length > size:
                raise DataError("is truncated", file=path, place=name, allowed="a whole tar")
            yield name, place + _BLOCK, length
            place += _BLOCK + -(-length // _BLOCK) * _BLOCK
    finally:
        os.close(file)


def _parse(path: Path, header: bytes, place: int) -> tuple[str, int]:
    try:
        if len(header) < _BLOCK or header[257:262] != b"ustar" or header[156:157] not in b"0\0":
            raise ValueError
        # The sum is taken with blanks in its own place.
        total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if int(header[148:156].strip(b" \0"), 8) != total:
            raise ValueError
        name = header[:100].rstrip(b"\0").decode("ascii")
        return name, int(header[124:136].strip(b" \0"), 8)
    except ValueError:
        raise DataError(
            "is truncated or not a tar shard", file=path, place=f"byte {place}", allowed="*.tar"
        ) from None


def _number_of(path: Path, name: str) -> int:
    try:
        return id_number(name.rpartition(".")[0])
    except DataError as error:
        raise DataError(str(error), file=path, place=name[:40]) from None


def check_picture(content: bytes, *, file: Path, place: str) -> str:
    """Decode a picture to see whether it can be, and return the extension that its format has.

    Raises:
        DataError: it cannot; file and place are named.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as picture:
            picture.load()
            return EXTENSIONS[str(picture.format)]
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise DataError(
            f"image does not decode ({error})", file=file, place=place, allowed="PNG, JPEG or WebP"
        ) from None
