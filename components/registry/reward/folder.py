"""The folder of a reward model as a stranger would read it: headers first, then every number."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json
from components.contracts.errors import DataError
from components.registry.gates import Gate, at_most
from components.registry.safetensors_file import FLOATS, Header, broken_tensor, read_header
from components.registry.settings import RewardGateSettings

CONSTANTS = "reward.json"
"""Beside the weights: what makes a backbone a reward model."""
SUFFIXES = (".json", ".safetensors", ".txt")
"""Weights, configs and vocabularies. Any other file could be a program, or a pickle."""


@dataclass(frozen=True)
class RewardFolder:
    """A reward model on disk."""

    path: Path
    sha256: str
    """Of the names and contents of all files."""
    num_bytes: int
    files: tuple[str, ...]
    weights: tuple[Header, ...]
    constants: dict[str, Any]
    """`reward.json`."""


def read_folder(path: Path) -> RewardFolder:
    """Read headers and digests; no tensor is loaded.

    Raises:
        DataError: `reward.json` or every weight is missing, or a file of weights is truncated.
    """
    constants = read_json(path / CONSTANTS)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    weights = [read_header(file) for file in files if file.suffix == ".safetensors"]
    if not weights:
        raise DataError("holds no weights", file=path, allowed="*.safetensors")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            own = hashlib.file_digest(content, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{own}\n".encode())
    return RewardFolder(
        path,
        digest.hexdigest(),
        sum(file.stat().st_size for file in files),
        tuple(file.relative_to(path).as_posix() for file in files),
        tuple(weights),
        constants if isinstance(constants, dict) else {},
    )


def file_gates(folder: RewardFolder, limits: RewardGateSettings) -> list[Gate]:
    """The gates on names and headers."""
    strange = [name for name in folder.files if not name.endswith(SUFFIXES)]
    types = sorted({dtype for header in folder.weights for dtype, _ in header.tensors.values()})
    megabytes = round(folder.num_bytes / 1e6, 3)
    return [
        at_most("reward_megabytes", megabytes, limits.max_megabytes, "size of the folder"),
        Gate(
            "reward_files",
            strange[0] if strange else f"{len(folder.files)} known",
            " ".join(SUFFIXES),
            not strange,
            "whatever else is there could be a program",
        ),
        Gate(
            "reward_types",
            " ".join(types) or "none",
            " ".join(FLOATS),
            bool(types) and set(types) <= set(FLOATS),
            "number types that every reader knows",
        ),
    ]


def number_gate(folder: RewardFolder) -> Gate:
    """The gate on the numbers themselves; every file is read, one tensor at a time."""
    broken = next(filter(None, (broken_tensor(header.path) for header in folder.weights)), None)
    return Gate(
        "reward_finite",
        broken or "all",
        "all",
        broken is None,
        "a single NaN makes every score one",
    )
