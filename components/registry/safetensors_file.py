"""A safetensors file as a stranger would read it: its header, without any of its numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from components.contracts.errors import DataError

FLOATS = ("BF16", "F16", "F32")
"""Number types that every reader knows."""
MAX_HEADER = 10_000_000


@dataclass(frozen=True)
class Header:
    """What a file says of itself, and its digest."""

    path: Path
    sha256: str
    num_bytes: int
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Type and shape by key."""
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header; no tensor is loaded.

    Raises:
        DataError: the file is missing, truncated, or no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= MAX_HEADER:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        metadata = header.pop("__metadata__", {})
        tensors = {key: (entry["dtype"], tuple(entry["shape"])) for key, entry in header.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if path.stat().st_size != end:
            raise ValueError(f"{path.stat().st_size} bytes of {end}")
    except FileNotFoundError:
        raise DataError("no such file", file=path) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"is truncated or not a safetensors file ({error})", file=path, allowed="*.safetensors"
        ) from None
    return Header(path, sha256, path.stat().st_size, tensors, metadata)


def broken_tensor(path: Path) -> str | None:
    """The first key that holds a number which is not finite; one tensor at a time is in memory."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for key in sorted(file.keys()):
            if not bool(file.get_tensor(key).isfinite().all()):
                return str(key)
    return None
