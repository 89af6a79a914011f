"""Files are whole or absent, equal content gives equal bytes, and damage is named."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from components.contracts import artifacts, tables
from components.contracts.errors import BadInput, DataError

IMAGES = {
    name: torch.randint(0, 256, (3, 8, 6), generator=torch.Generator().manual_seed(seed)).byte()
    for seed, name in enumerate(("s_b", "s_a"))
}
PROMPTS = pa.table(
    {
        "prompt_id": ["p_1"],
        "prompt": ["a cat"],
        "category": ["plain"],
        "source": ["p.csv"],
        "num_tokens": [4],
    }
)


def fail() -> None:
    raise RuntimeError("in the middle")


def test_a_file_keeps_its_earlier_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        fail()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_keeps_its_earlier_content_when_the_block_raises(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("earlier")
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("half")
        fail()
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for name in ("old", "new"):
        with artifacts.atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(path.parent.iterdir()) == [path]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    artifacts.write_json(tmp_path / "a.json", {"ä": [1, None, 0.5]})
    assert artifacts.read_json(tmp_path / "a.json") == {"ä": [1, None, 0.5]}
    tensors = {"x": torch.arange(6.0).view(2, 3).T, "y": torch.ones(2, dtype=torch.long)}
    artifacts.write_safetensors(tmp_path / "a.safetensors", tensors)
    found = artifacts.read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    artifacts.write_image_shard(tmp_path / "a.tar", IMAGES)
    images = artifacts.read_image_shard(tmp_path / "a.tar")
    assert images.keys() == IMAGES.keys()
    assert all(torch.equal(images[name], IMAGES[name]) for name in IMAGES)
    tables.write_table(tmp_path / "a.parquet", PROMPTS, tables.PROMPTS)
    table = tables.read_table(tmp_path / "a.parquet", tables.PROMPTS)
    assert table.to_pylist() == PROMPTS.to_pylist()
    artifacts.write_csv(tmp_path / "a.csv", ("a", "b"), [("x,y", 'q"'), (1, 0.5)])
    assert (tmp_path / "a.csv").read_text() == 'a,b\n"x,y","q"""\n1,0.5\n'


def test_a_figure_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_the_same_images_give_the_same_shard_in_any_order(tmp_path: Path) -> None:
    artifacts.write_image_shard(tmp_path / "a.tar", IMAGES)
    artifacts.write_image_shard(tmp_path / "b.tar", dict(reversed(IMAGES.items())))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


WRITERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "a.json": (lambda path: artifacts.write_json(path, {"a": 1}), artifacts.read_json),
    "a.safetensors": (
        lambda path: artifacts.write_safetensors(path, {"x": torch.ones(64)}),
        artifacts.read_safetensors,
    ),
    "a.tar": (
        lambda path: artifacts.write_image_shard(path, IMAGES),
        artifacts.read_image_shard,
    ),
    "a.parquet": (
        lambda path: tables.write_table(path, PROMPTS, tables.PROMPTS),
        lambda path: tables.read_table(path, tables.PROMPTS),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.1, 0.25, "missing", "foreign"])
def test_damage_is_one_line_that_names_the_file(
    tmp_path: Path, name: str, keep: float | str
) -> None:
    write, read = WRITERS[name]
    path = tmp_path / name
    write(path)
    if keep == "missing":
        path.unlink()
    elif keep == "foreign":
        path.write_bytes(b"\x89 something else altogether \xff" * 40)
    else:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * float(keep))])
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_table_that_does_not_fit_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    lacking = PROMPTS.drop_columns(["category"])
    with pytest.raises(DataError, match="allowed: prompt_id, prompt, category"):
        tables.write_table(path, lacking, tables.PROMPTS)
    index = PROMPTS.column_names.index("prompt")
    with_null = PROMPTS.set_column(index, "prompt", pa.array([None], pa.string()))
    with pytest.raises(DataError, match="does not fit schema 'prompts'"):
        tables.write_table(path, with_null, tables.PROMPTS)
    assert not path.exists()
    tables.write_table(path, PROMPTS, tables.PROMPTS)
    with pytest.raises(DataError, match=r"table 'prompts' version 1; allowed: 'pairs' version 2"):
        tables.read_table(path, tables.PAIRS)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 30, 60)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_pictures_are_refused_or_read_but_nothing_else_happens(kind: str) -> None:
    content = encoded(kind)
    image = artifacts.decode_image(content, file=Path("p.csv"), place="row 1")
    assert image.shape == (3, 12, 16)
    assert image.dtype == torch.uint8
    for cut in range(0, len(content) - 4, 3):
        damaged = [content[:cut], content[:cut] + b"\xff\x00\x99\x7f" + content[cut + 4 :]]
        for data in damaged:
            try:
                artifacts.decode_image(data, file=Path("p.csv"), place="row 1")
            except BadInput as error:
                assert str(error).startswith("p.csv: row 1: image does not decode")


def test_other_kinds_of_picture_are_refused() -> None:
    with pytest.raises(DataError, match="allowed: PNG, JPEG or WebP"):
        artifacts.decode_image(encoded("BMP"), file=Path("p.csv"), place="row 1")


def test_the_digest_is_the_one_that_dvc_computes(tmp_path: Path) -> None:
    (tmp_path / "folder/inner").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"some\r\ncontent\n")
    for name in ("b", "a ä", "inner/c", "inner.d"):
        (tmp_path / "folder" / name).write_text(name)
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "file", "folder"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    for name in ("file", "folder"):
        recorded = YAML(typ="safe").load((tmp_path / f"{name}.dvc").read_text())
        assert artifacts.dvc_digest(tmp_path / name) == recorded["outs"][0]["md5"]
