"""Profiles write `params.yaml` itself, and the way back is exact."""

from pathlib import Path

import pytest

from components.contracts.errors import SettingsError
from flows.profiles import apply_profile, profile_names
from tests.support.project import SOURCE


def test_the_demo_profile_is_what_is_shipped(project: Path) -> None:
    shipped = (SOURCE / "params.yaml").read_bytes()
    assert apply_profile(project, "demo") == []
    assert (project / "params.yaml").read_bytes() == shipped


def test_full_and_back_is_the_same_file_comments_and_all(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    changed = apply_profile(project, "full")
    assert "finetuning.rounds: " in "; ".join(changed)
    full = (project / "params.yaml").read_text()
    assert full != before
    assert full.count("#") == before.count("#")
    back = apply_profile(project, "demo")
    assert len(back) == len(changed), "demo does not hold every key that full changes"
    assert (project / "params.yaml").read_text() == before


@pytest.mark.parametrize("name", profile_names(SOURCE))
def test_every_profile_describes_a_run(project: Path, name: str) -> None:
    apply_profile(project, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("finetuning: {round: 3}", "finetuning.round: not in params.yaml; allowed: lora, rounds"),
        ("finetuning: {rounds: -1}", "finetuning.rounds"),
    ],
)
def test_a_wrong_profile_changes_nothing(project: Path, content: str, message: str) -> None:
    before = (project / "params.yaml").read_bytes()
    (project / "profiles/wrong.yaml").write_text(content)
    with pytest.raises(SettingsError, match=message):
        apply_profile(project, "wrong")
    assert (project / "params.yaml").read_bytes() == before


def test_an_unknown_profile_lists_the_known_ones(project: Path) -> None:
    with pytest.raises(SettingsError, match="no profile 'ful'; allowed: demo, full"):
        apply_profile(project, "ful")
