"""`konomi audit`: a table, a page, and the exit status of the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.audit import described
from flows.cli import _main
from tests.rewards.world import rows, write_world

JUDGE = {"callable": "tests.rewards.audit.plugs:RednessJudge"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with judged images, as the current folder."""
    write_world(tmp_path / "data/preferences", *rows())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(root: Path, reward: dict[str, Any], audit: dict[str, Any] | None) -> None:
    shipped = YAML(typ="safe").load((Path(__file__).parents[2] / "params.yaml").read_text())
    shipped["compute"] = {"device": "cpu", "threads": 1}
    shipped["rewards"]["audit"] = audit
    shipped["finetuning"]["reward"] = {"name": "python", **reward}
    with (root / "params.yaml").open("w") as file:
        YAML().dump(shipped, file)


def test_an_honest_reward_is_told_as_a_table(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_params(root, {"callable": "tests.rewards.audit.plugs:Reward"}, {"judge": JUDGE})
    assert _main(["audit"], debug=False) == 0
    told = capsys.readouterr().out
    for name in ("captured", "shortcut", "colour", "agreement"):
        assert f"✓  {name}" in told
    assert "≥ 0.30" in told and "≤ 0.50" in told and "100" in told
    assert ".work/audit/rewards_audit.html" in told
    page = (root / ".work/audit/rewards_audit.html").read_text()
    assert "tests.rewards.audit.plugs:Reward" in page
    assert not (root / "reports").exists(), "reports/ belongs to the stage"


def test_a_refused_reward_is_65_and_one_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = {
        "callable": "tests.rewards.audit.plugs:Reward",
        "arguments": {"honest": 0.0, "loved": "saturation"},
    }
    write_params(root, reward, {"judge": JUDGE})
    assert _main(["audit"], debug=False) == 65
    found = capsys.readouterr()
    assert "✗  colour" in found.out and "saturation" in found.out
    (line,) = (line for line in found.err.splitlines() if line.startswith("error: "))
    assert line.startswith("error: the audit refuses the reward: captured: choosing the best of 4")
    assert (root / ".work/audit/rewards_audit.json").exists()


def test_without_a_judge_it_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_params(root, {"callable": "tests.rewards.audit.plugs:Reward"}, None)
    assert _main(["audit"], debug=False) == 2
    assert capsys.readouterr().err == (
        "error: params.yaml: rewards.audit is null: nobody is named to judge; "
        "allowed: a block with at least a judge\n"
    )


def test_a_reward_is_called_by_its_place() -> None:
    from components.rewards.scorers.settings import ModelScorerSettings, PythonScorerSettings

    assert described(ModelScorerSettings(path="models/mine")) == "models/mine"
    assert described(PythonScorerSettings(callable="a.b:c")) == "a.b:c"
