"""Pictures are read when they are needed, each as seldom as the memory allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.contracts.artifacts import encode_png, write_image_shard
from components.contracts.errors import DataError
from components.contracts.ids import id_number, sample_id
from components.contracts.shards import ShardWriter, read_shard_index
from components.rewards.images import ImageStore
from components.rewards.pictures import Preprocessing

COUNT = 12
PICTURES = torch.randint(
    0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)
BY_NAME = dict(
    sorted((sample_id("p", "model", seed), image) for seed, image in enumerate(PICTURES))
)
NAMES = list(BY_NAME)
ROWS = torch.stack(list(BY_NAME.values()))
NUMBERS = np.array([id_number(name) for name in NAMES], np.uint64)


class Counted:
    """A resize that counts what it is given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += len(images)
        return images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards, of which the pictures are spread over in no order."""
    for shard in range(3):
        images = {name: BY_NAME[name] for name in NAMES[shard::3]}
        write_image_shard(tmp_path / f"images-{shard:05d}.tar", images)
    return tmp_path


def test_rows_come_as_they_are_asked_for(folder: Path) -> None:
    store = ImageStore(folder, NUMBERS, Counted())
    rows = torch.tensor([7, 0, 7, 11, 3])
    assert torch.equal(store.pixels(rows), ROWS[rows])
    assert len(store) == COUNT
    assert store.pixels(torch.zeros(0, dtype=torch.long)).shape[0] == 0


def test_each_picture_is_decoded_once_where_all_fit(folder: Path) -> None:
    counted = Counted()
    store = ImageStore(folder, NUMBERS, counted)
    assert counted.calls == 0
    for seed in range(3):
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed))
        for rows in order.split(5):
            assert torch.equal(store.pixels(rows), ROWS[rows])
    assert counted.calls == COUNT


def test_a_small_memory_keeps_what_came_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted()
    store = ImageStore(folder, NUMBERS, counted, cache_megabytes=1)
    # A megabyte holds more than these; take one that holds five.
    monkeypatch.setattr(store, "_cache_bytes", 5 * 3 * 8 * 8 + 1)
    for _ in range(3):
        for rows in torch.arange(COUNT).split(4):
            assert torch.equal(store.pixels(rows), ROWS[rows])
    # Least recently used would have decoded all 12 in every pass.
    assert counted.calls == COUNT + 2 * (COUNT - 5)


def test_nothing_is_kept_without_memory(folder: Path) -> None:
    counted = Counted()
    store = ImageStore(folder, NUMBERS, counted, cache_megabytes=0)
    for _ in range(2):
        assert torch.equal(store.pixels(torch.arange(COUNT)), ROWS)
    assert counted.calls == 2 * COUNT


def test_ahead_gives_the_same_batches_in_order(folder: Path) -> None:
    counted = Counted()
    store = ImageStore(folder, NUMBERS, counted)
    batches = torch.arange(COUNT).split(3)
    for num_batches in (0, 1, 2, 9):
        found = list(store.ahead(iter(batches), num_batches))
        assert [rows.tolist() for rows, _ in found] == [rows.tolist() for rows in batches]
        assert torch.equal(torch.cat([pixels for _, pixels in found]), ROWS)
    assert counted.calls == COUNT


def test_ahead_reads_while_the_caller_works_but_not_the_whole(folder: Path) -> None:
    asked: list[int] = []

    def batches() -> object:
        for number, rows in enumerate(torch.arange(COUNT).split(1)):
            asked.append(number)
            yield rows

    stream = ImageStore(folder, NUMBERS, Counted()).ahead(batches(), 2)  # type: ignore[arg-type]
    next(stream)
    assert asked == [0, 1, 2]
    stream.close()


def test_an_error_in_the_thread_reaches_the_caller(folder: Path) -> None:
    index = read_shard_index(folder / "images-00001.tar")
    path = folder / "images-00001.tar"
    content = bytearray(path.read_bytes())
    content[int(index.offset[0]) + 20 : int(index.offset[0]) + 60] = bytes(40)
    path.write_bytes(content)
    store = ImageStore(folder, NUMBERS, Counted())
    name = NAMES[1::3][0]
    with pytest.raises(DataError, match=rf"images-00001.tar: entry {name}: image does not decode"):
        list(store.ahead(torch.arange(COUNT).split(4)))


def test_pictures_of_any_size_and_format_are_brought_to_one(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image

    pictures = ShardWriter(tmp_path, 10)
    sizes = {"PNG": (8, 12), "JPEG": (30, 20), "WEBP": (16, 16)}
    for name, (kind, size) in zip(NAMES, sizes.items(), strict=False):
        content = BytesIO()
        Image.new("RGB", size, (200, 40, 90)).save(content, kind)
        pictures.add(name, content.getvalue(), kind.lower())
    pictures.close()
    resize = Preprocessing(8, 8, "bicubic", (0.5,) * 3, (0.5,) * 3).resize
    pixels = ImageStore(tmp_path, NUMBERS[:3], resize).pixels(torch.arange(3))
    assert pixels.shape == (3, 3, 8, 8)
    assert (pixels.float().mean(dim=(0, 2, 3)) - torch.tensor([200.0, 40, 90])).abs().max() < 4
    with pytest.raises(DataError, match=r"images-00000.tar: entry s_\w+: is of size \(3, 16, 16\)"):
        ImageStore(tmp_path, NUMBERS[:3], lambda images: images).pixels(torch.tensor([2, 0]))


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 1600, -1024, -1023])
def test_a_shard_that_is_cut_is_named(folder: Path, keep: int) -> None:
    path = folder / "images-00002.tar"
    content = path.read_bytes()
    # Behind its last picture a tar has nothing but zeros.
    end = len(content.rstrip(b"\0")) + 1 if keep < 0 else 0
    path.write_bytes(content[: end + keep if keep < 0 else keep])
    with pytest.raises(DataError, match=r"images-00002.tar: .*truncated"):
        ImageStore(folder, NUMBERS, Counted())


def test_a_header_that_is_damaged_is_named(folder: Path) -> None:
    path = folder / "images-00000.tar"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"images-00000.tar: byte 0: is truncated or not a tar"):
        ImageStore(folder, NUMBERS, Counted())


def test_a_shard_of_other_files_is_named(folder: Path) -> None:
    import tarfile

    with tarfile.open(folder / "images-00003.tar", "w") as shard:
        shard.addfile(tarfile.TarInfo("holiday.png"))
    with pytest.raises(DataError, match=r"images-00003.tar: holiday.png: 'holiday' is no id"):
        ImageStore(folder, NUMBERS, Counted())


def test_a_picture_that_is_in_no_shard_is_named(folder: Path) -> None:
    (folder / "images-00001.tar").unlink()
    with pytest.raises(DataError, match=rf"image '{NAMES[1]}' is in no shard"):
        ImageStore(folder, NUMBERS, Counted())


def test_shards_are_found_again_as_they_were_written(tmp_path: Path) -> None:
    pictures = ShardWriter(tmp_path / "images", 5)
    shards = [pictures.add(name, encode_png(image), "png") for name, image in BY_NAME.items()]
    pictures.close()
    assert shards == ["00000"] * 5 + ["00001"] * 5 + ["00002"] * 2
    index = read_shard_index(tmp_path / "images/images-00001.tar")
    assert index.number.tolist() == NUMBERS[5:10].tolist()
    content = (tmp_path / "images/images-00001.tar").read_bytes()
    for number, (offset, length) in enumerate(zip(index.offset, index.length, strict=True)):
        assert content[offset : offset + length] == encode_png(ROWS[5 + number])
