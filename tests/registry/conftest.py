"""One built project for the session, copied for each test that changes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.world import build_project, run_stage

VARIABLES = ("KONOMI_TRACKING", "KONOMI_PARENT_RUN_ID", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on which the registry has not run. Never changed: `project` is a copy."""
    return build_project(tmp_path_factory.mktemp("built"))


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A project on which the registry has not run."""
    return Path(shutil.copytree(built, tmp_path / "project"))


@pytest.fixture(scope="session")
def registered(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with one registered version; tests that share it only read."""
    before = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("registered") / "project"))
    assert run_stage(root) == 0
    yield root
    os.environ.update(before)
