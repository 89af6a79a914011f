"""Checkpoints for an exact resume: the newest two, found again by what the run is made of.

They live in `.work/finetuning/<digest>/round-<n>/`, where the digest covers the settings, the
inputs and the code: a checkpoint of another run is never picked up, and editing the method starts
anew. After success the folder goes, so that asking again for the same run trains again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from components.contracts.artifacts import (
    atomic_path,
    read_json,
    read_safetensors,
    write_json,
    write_safetensors,
)
from components.contracts.errors import DataError

KEPT = 2


class Checkpoint(NamedTuple):
    """What was saved after a round."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def run_digest(**parts: Any) -> str:
    """Names a run by everything that it is made of: json-like settings and digests of inputs."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(*folders: Path) -> str:
    """Of the Python files below some folders: a checkpoint of other code is of another run."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, finished_rounds: int, tensors: Mapping[str, Tensor], facts: Any) -> None:
        """Write both files of a checkpoint or nothing, then let go of all but the newest two."""
        with atomic_path(self.folder / f"round-{finished_rounds:06d}") as temporary:
            write_safetensors(temporary / "state.safetensors", tensors)
            # The checksum tells bits that rotted; a file cut short already fails to parse.
            write_json(
                temporary / "state.json",
                {"sha256": _sha256(temporary / "state.safetensors"), "facts": facts},
            )
        for old in self._newest_first()[KEPT:]:
            shutil.rmtree(old)

    def load(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or None; damaged ones are passed over."""
        for stale in self.folder.glob(".round-*"):
            # What a killed process was writing.
            shutil.rmtree(stale, ignore_errors=True)
        for folder in self._newest_first():
            try:
                return _read(folder)
            except DataError as error:
                print(f"finetuning: passing over a damaged checkpoint: {error}", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Forget the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("round-*"), reverse=True)


def _read(folder: Path) -> Checkpoint:
    saved = read_json(folder / "state.json")
    file = folder / "state.safetensors"
    tensors = read_safetensors(file)
    if not isinstance(saved, dict) or saved.get("sha256") != _sha256(file):
        raise DataError("does not match its checksum", file=file)
    return Checkpoint(tensors, saved["facts"])


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
