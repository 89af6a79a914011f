"""`konomi promote` and what `konomi status` shows of the registry, for both models."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from components.registry import versions
from flows.cli import _main
from flows.figures import markdown
from flows.summary import show_summary, show_versions
from tests.registry.world import inside


@pytest.fixture
def copy(registered: Path, tmp_path: Path) -> Path:
    """A project with a version of each model; of the store only names and tags are used."""
    return Path(shutil.copytree(registered, tmp_path / "project"))


def printed(show: object, root: Path) -> str:
    console = Console(file=io.StringIO(), width=120)
    with inside(root):
        show(root, console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_promotion_of_either_model(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with inside(copy):
        assert _main(["promote", "1", "--by", "Ann", "--model", "reward"], debug=False) == 0
    assert "tiny-reward version 1 is the champion, approved by Ann" in capsys.readouterr().out
    assert versions(copy, "tiny-reward")[0].aliases == ("champion",)
    assert versions(copy, "tiny-lora")[0].aliases == ("challenger",)
    with inside(copy):
        assert _main(["promote", "1", "--by", "Bob"], debug=False) == 0
    assert versions(copy, "tiny-lora")[0].tags["approved_by"] == "Bob"


def test_a_reward_model_that_is_not_registered_cannot_be_promoted(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = copy / "params.yaml"
    params.write_text(params.read_text().replace("{model_name: tiny-reward}", "null"))
    with inside(copy):
        assert _main(["promote", "1", "--by", "Ann", "--model", "reward"], debug=False) == 2
    told = capsys.readouterr().err
    assert told == "error: registry.reward is null: no such model is registered; allowed: lora\n"


def test_the_status_shows_the_versions_of_both(copy: Path) -> None:
    told = printed(show_versions, copy)
    for name in ("tiny-lora", "tiny-reward"):
        assert f"{name} " in told
    assert told.count("version 1") == 2 and told.count("challenger") == 2
    shutil.rmtree(copy / "mlartifacts")
    (copy / "mlflow.db").unlink()
    assert "No version of tiny-reward is registered yet." in printed(show_versions, copy)


def test_the_summary_and_the_flows_page_name_both(copy: Path) -> None:
    (copy / "reports/evaluation.json").unlink()  # its verdict is no part of this
    told = printed(show_summary, copy)
    assert "tiny-reward version 1, alias challenger" in told
    assert "tiny-lora version 1, alias challenger" in told and "konomi promote 1" in told
    page = markdown(copy)
    assert "### registry: reward" in page and "| model_name | tiny-reward |" in page
    assert "### registry: lora" in page and "| reward_model | tiny-reward version 1 |" in page
