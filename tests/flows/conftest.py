"""One trivial project a test, and one Prefect server for all of them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import environment
from tests.support.prefect_server import prefect_server
from tests.support.project import make_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh project, with this process prepared for it and no tracker."""
    folder = make_project(tmp_path / "project")
    for name, value in environment.defaults(folder).items():
        if name == "DVC_SITE_CACHE_DIR" or name not in os.environ:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("KONOMI_TRACKING", "off")
    # Without the folder of this interpreter: `prepare` has to put it there.
    here = str(Path(sys.executable).parent)
    parts = [part for part in os.environ["PATH"].split(os.pathsep) if part != here]
    monkeypatch.setenv("PATH", os.pathsep.join(parts))
    environment.prepare(folder)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prefect server that lives as long as the tests."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url
