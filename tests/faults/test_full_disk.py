"""A full disk in DVC's cache: DVC records outputs that it does not hold and exits with status 0."""

import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.dvc import CacheIncomplete, changes, run_stage
from tests.support.project import behave, change

LITTLE = 2**20
"""Bytes that the cache can take."""


def free_space(folder: Path, mounted: bool, limit: tuple[int, int]) -> None:
    """What a person does about a full disk."""
    if mounted:
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.fixture
def little_cache(project: Path) -> Iterator[Callable[[], None]]:
    """A cache on another file system that refuses what is larger than `LITTLE`.

    A small disk of its own where this process may mount one; elsewhere a limit on the size of a
    file, which DVC meets in the same place. The stage itself lifts that limit for its own out.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={LITTLE}", "tmpfs", folder]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LITTLE, before[1]))
        config = project / ".dvc/config"
        config.write_text(config.read_text() + f"[cache]\n    dir = {folder}/cache\n")
        try:
            yield lambda: free_space(Path(folder), mounted, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            if mounted:
                subprocess.run(["umount", folder], check=True)


def test_outputs_that_the_cache_cannot_take_are_an_error(
    project: Path, little_cache: Callable[[], None]
) -> None:
    run_stage(project, "prompts", lambda line: None)
    good = (project / "dvc.lock").read_bytes()
    change(project, seed=8)
    behave(project, "prompts", size=4 * LITTLE)
    with pytest.raises(CacheIncomplete) as caught:
        run_stage(project, "prompts", lambda line: None)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert (project / "dvc.lock").read_bytes() == good, "dvc.lock claims what the cache lacks"
    assert (project / "data/prompts").stat().st_size > 4 * LITTLE
    assert "prompts" in changes(project, ["prompts"])


def test_with_space_again_the_same_command_succeeds(
    project: Path, little_cache: Callable[[], None]
) -> None:
    behave(project, "prompts", size=4 * LITTLE)
    with pytest.raises(CacheIncomplete):
        run_stage(project, "prompts", lambda line: None)
    assert not (project / "dvc.lock").exists()
    little_cache()
    assert run_stage(project, "prompts", lambda line: None).outcome == "ran"
    assert changes(project, ["prompts"]) == {}
