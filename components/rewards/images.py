"""The judged pictures, read from their shards when they are needed.

A million pictures do not fit into memory, what is known of where they lie does: some 28 bytes each.
Decoded pictures are kept up to a limit. What came first stays: every pass over the data is in
another order, and then the pictures that were used last are no likelier to be needed soon, while a
cache that throws away the oldest would mostly hold what has just been seen.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8, UInt64
from torch import Tensor

from components.contracts.artifacts import decode_image
from components.contracts.errors import DataError
from components.contracts.shards import read_shard_index

CACHE_MEGABYTES = 1024
Resize = Callable[[UInt8[Tensor, "1 3 h w"]], UInt8[Tensor, "1 3 s s"]]


class ImageStore:
    """Pictures by row, all brought to one size; safe to be asked by several threads."""

    def __init__(
        self,
        folder: Path,
        numbers: UInt64[np.ndarray, " m"],
        resize: Resize,
        cache_megabytes: int = CACHE_MEGABYTES,
    ) -> None:
        """Find the pictures; none is read yet.

        Args:
            folder: with the shards, `images-00000.tar` and so on.
            numbers: of the sample ids, rising: row 0 is the picture with the lowest.
            resize: brings a picture to the size that all have.
            cache_megabytes: how much of the decoded pictures is kept.

        Raises:
            DataError: a shard is damaged, or a picture is in none of them.
        """
        self._numbers, self._resize = numbers, resize
        self._cache_bytes = cache_megabytes * 2**20
        self._files = sorted(folder.glob("*.tar"))
        self._shard, self._offset, self._length = _locate(folder, self._files, numbers)
        self._lock = Lock()
        self._slots = torch.zeros(0, 3, 0, 0, dtype=torch.uint8)
        self._slot_of = np.full(len(numbers), -1, np.int32)
        self._used = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def pixels(self, rows: Int64[Tensor, " k"]) -> UInt8[Tensor, "k 3 s s"]:
        """The pictures of these rows, on the CPU, each decoded at most once in this call.

        Raises:
            DataError: a picture does not decode, or is of another size after `resize`; shard and
                entry are named.
        """
        wanted, where = np.unique(rows.numpy(), return_inverse=True)
        with self._lock:
            slots = self._slot_of[wanted]
            held = np.flatnonzero(slots >= 0)
            found = self._empty(len(wanted)) if len(held) else torch.zeros(0)
            if len(held):
                found[torch.from_numpy(held)] = self._slots[torch.from_numpy(slots[held]).long()]
        lacking = np.flatnonzero(slots < 0)
        # In the order in which they lie on the disk.
        lacking = lacking[np.lexsort((self._offset[wanted[lacking]], self._shard[wanted[lacking]]))]
        for place, picture in zip(lacking, self._decode(wanted[lacking]), strict=True):
            if not found.numel():
                found = self._empty(len(wanted))
            found[place] = picture
            self._keep(int(wanted[place]), picture)
        # Nothing is copied where the rows came sorted and each once, as those of a batch do.
        return found if np.array_equal(wanted, rows.numpy()) else found[torch.from_numpy(where)]

    def ahead(
        self, batches: Iterable[Int64[Tensor, " k"]], num_batches: int = 2
    ) -> Iterator[tuple[Int64[Tensor, " k"], UInt8[Tensor, "k 3 s s"]]]:
        """Batches of rows with their pictures, decoded in a thread while the caller computes.

        `batches` is asked `num_batches` early, by the calling thread. Where it draws at random in
        between, draw what else is drawn from another generator.
        """
        with ThreadPoolExecutor(1, "pictures") as pool:
            waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
            for rows in batches:
                waiting.append((rows, pool.submit(self.pixels, rows)))
                if len(waiting) > num_batches:
                    first, pixels = waiting.popleft()
                    yield first, pixels.result()
            for first, pixels in waiting:
                yield first, pixels.result()

    def _decode(self, rows: Int[np.ndarray, " k"]) -> Iterator[UInt8[Tensor, "3 s s"]]:
        for shard, members in groupby(rows.tolist(), key=lambda row: int(self._shard[row])):
            path = self._files[shard]
            with path.open("rb", buffering=0) as file:
                for row in members:
                    content = os.pread(file.fileno(), self._length[row], self._offset[row])
                    place = f"entry s_{self._numbers[row]:016x}"
                    image = decode_image(content, file=path, place=place)
                    yield self._checked(self._resize(image[None])[0], path, place)

    def _checked(self, picture: Tensor, path: Path, place: str) -> Tensor:
        with self._lock:
            if not self._slots.shape[-1]:
                # Memory that is asked for is not taken before it is written to.
                capacity = min(len(self), self._cache_bytes // max(picture.numel(), 1))
                self._slots = torch.empty(capacity, *picture.shape, dtype=torch.uint8)
            size = self._slots.shape[1:]
        if picture.shape != size:
            raise DataError(
                f"is of size {tuple(picture.shape)} after resizing",
                file=path,
                place=place,
                allowed=str(tuple(size)),
            )
        return picture

    def _empty(self, count: int) -> UInt8[Tensor, "k 3 s s"]:
        return torch.empty(count, *self._slots.shape[1:], dtype=torch.uint8)

    def _keep(self, row: int, picture: UInt8[Tensor, "3 s s"]) -> None:
        with self._lock:
            if self._slot_of[row] < 0 and self._used < len(self._slots):
                self._slots[self._used] = picture
                self._slot_of[row] = self._used
                self._used += 1


def _locate(
    folder: Path, files: Sequence[Path], numbers: UInt64[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Shard, first byte and length of each picture."""
    shard = np.full(len(numbers), -1, np.int32)
    offset, length = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int32)
    for number, path in enumerate(files):
        index = read_shard_index(path)
        row = np.searchsorted(numbers, index.number).clip(max=max(len(numbers) - 1, 0))
        inside = numbers[row] == index.number if len(numbers) else np.zeros(len(row), bool)
        shard[row[inside]] = number
        offset[row[inside]], length[row[inside]] = index.offset[inside], index.length[inside]
    lost = np.flatnonzero(shard < 0)
    if len(lost):
        raise DataError(
            f"image 's_{numbers[lost[0]]:016x}' is in no shard",
            file=folder,
            allowed="every sample that was judged, in one of the tars",
        )
    return shard, offset, length
