"""A small project folder in which a test runs the real body of one stage."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from components.contracts.stage import stage_main
from components.tracking import open_tracker


class Project:
    """A folder with `params.yaml`; stages run in it as `python -m components.<stage>` runs them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("KONOMI_TRACKING", "off")
        self._monkeypatch = monkeypatch

    def params(self, **blocks: Any) -> None:
        """Write `params.yaml`; json is YAML."""
        shared = {
            "seed": 7,
            "compute": {"device": "cpu", "threads": 1},
            "base": {"path": "base", "num_steps": 2, "batch_size": 8},
        }
        (self.root / "params.yaml").write_text(json.dumps({**shared, **blocks}, indent=1))

    def run(self, stage: str) -> int:
        """Exit status of the stage."""
        self._monkeypatch.chdir(self.root)
        body = importlib.import_module(f"components.{stage}.stage").run
        return stage_main(stage, body, open_tracker, [])

    def files(self, *folders: str) -> dict[str, bytes]:
        """Content of all files below the folders, by relative path."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for folder in folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }

    def json(self, path: str) -> Any:
        """A report."""
        return json.loads((self.root / path).read_text())
