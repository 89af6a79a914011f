"""A backbone and preferences on disk, made once for all tests of this room."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.stage import StageContext
from components.rewards.settings import BackboneSettings, Settings
from components.rewards.stage import run
from components.tracking import NullTracker
from tests.rewards.world import rows, write_world
from tests.support.tiny_clip import tiny_clip

SETTINGS = Settings(
    backbone=BackboneSettings(source="clip"), epochs=5, batch_size=24, learning_rate=3e-3
)


def project(root: Path) -> StageContext:
    """A project folder with `clip/` and `data/preferences/`."""
    tiny_clip(root / "clip")
    write_world(root / "data/preferences", *rows())
    work = root / ".work/rewards"
    work.mkdir(parents=True)
    return StageContext(
        stage="rewards",
        root=root,
        seed=7,
        compute=ComputeSettings(device="cpu", threads=1),
        base=BaseSettings(path="base"),
        tracker=NullTracker(),
        work=work,
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A project in which the stage has run, and the metrics that it returned."""
    root = tmp_path_factory.mktemp("trained")
    return root, run(SETTINGS, project(root))
