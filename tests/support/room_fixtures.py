"""Fixtures: a project with the tiny base, for every room that draws from it or reads its words."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.rooms import Project
from tests.support.tiny import tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture
def new_project(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Project]:
    def make(name: str) -> Project:
        project = Project(tmp_path / name, monkeypatch)
        (project.root / "base").symlink_to(base)
        return project

    return make


@pytest.fixture
def project(new_project: Callable[[str], Project]) -> Project:
    return new_project("project")
