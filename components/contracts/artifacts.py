"""Files between stages: written atomically, read with an error that names the file.

Tables live in `tables.py`. Here are json, safetensors, text, image shards, and the digests that DVC
uses, so that a run can be tied to the exact bytes that it read. There is no pickle anywhere.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.errors import DataError

if TYPE_CHECKING:
    import torch

_TAR_END = 1024
"""Zero bytes that end every tar."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
"""What a picture may be: fewer decoders mean fewer ways for strange bytes to do harm."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that replaces it when the block ends without an error.

    Works for a file and for a directory. When the block raises, `path` keeps its earlier content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}"
    _remove(temporary)
    try:
        yield temporary
        if temporary.is_dir():
            _replace_directory(temporary, path)
        else:
            temporary.replace(path)
    finally:
        _remove(temporary)


def _replace_directory(new: Path, path: Path) -> None:
    # A directory cannot be renamed over another one: the old one steps aside first and comes back
    # if the second rename fails.
    old = path.parent / f".{path.name}.tmp-old-{os.getpid()}"
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a whole UTF-8 file or nothing."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write indented json; NaN and infinity are refused, since other readers choke on them."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows, with quotes where a field needs them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read a json file, or raise `DataError` that names it and the place."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8", file=path, place=f"byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"is not json: {error.msg}", file=path, place=f"line {error.lineno}"
        ) from None


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named tensors (contiguous copies, on the CPU) with optional string metadata."""
    from safetensors.torch import save

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(path, save(content, dict(metadata) if metadata else None))


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read named tensors, or raise `DataError` for a missing, truncated or foreign file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except SafetensorError as error:
        raise DataError(
            f"is truncated or not a safetensors file ({error})", file=path, allowed="*.safetensors"
        ) from None


def encode_png(image: torch.Tensor) -> bytes:
    """PNG bytes of one image, uint8 [3, h, w]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def decode_image(content: bytes, *, file: Path, place: str) -> torch.Tensor:
    """uint8 [3, h, w] of an encoded picture, or `DataError` for bytes that do not decode."""
    import numpy
    import torch
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as picture:
            pixels = numpy.asarray(picture.convert("RGB"))
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise DataError(
            f"image does not decode ({error})", file=file, place=place, allowed="PNG, JPEG or WebP"
        ) from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def write_image_shard(path: Path, images: Mapping[str, torch.Tensor]) -> None:
    """Write uint8 [3, h, w] images as `<id>.png` in one tar; equal images give equal bytes."""
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as shard:
        for name in sorted(images):
            content = encode_png(images[name])
            entry = tarfile.TarInfo(f"{name}.png")
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))


def read_image_shard(path: Path) -> dict[str, torch.Tensor]:
    """Read a shard back as uint8 [3, h, w] by id, or raise `DataError` naming shard and entry."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAR_END))
            if file.read() != bytes(_TAR_END):
                # Cut between two entries it would read without complaint, with images missing.
                raise DataError("is truncated or not a tar shard", file=path, allowed="*.tar")
        with tarfile.open(path) as shard:
            contents = {
                entry.name: data.read() for entry in shard if (data := shard.extractfile(entry))
            }
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except tarfile.TarError as error:
        raise DataError(f"is not a tar shard ({error})", file=path) from None
    return {
        name.rpartition(".")[0]: decode_image(content, file=path, place=name)
        for name, content in contents.items()
    }


def dvc_digest(path: Path) -> str:
    """The md5 by which DVC knows a file, or a directory (with its `.dir` suffix)."""
    if path.is_dir():
        entries = [
            {"md5": dvc_digest(file), "relpath": file.relative_to(path).as_posix()}
            for file in path.rglob("*")
            if file.is_file()
        ]
        entries.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except FileNotFoundError:
        raise DataError("no such file or folder", file=path) from None
