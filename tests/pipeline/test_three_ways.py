"""The whole pipeline on the miniature, small: `dvc repro`, the flow and `python -m` give the same
bytes, and a key of `evaluation` runs `evaluation` and `registry` again and nothing else."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.contracts.settings import STAGES
from flows.profiles import apply_profile
from tests.support.project import SOURCE, command_environment, commit_all

SMALL = """
preferences: {prompts_per_category: 2, held_out_prompts_per_category: 2, samples_per_prompt: 4,
  pairs_per_prompt: 6}
rewards: {epochs: 1}
finetuning:
  rounds: 1
  monitor: {prompts_per_category: 1, samples_per_prompt: 2}
  method: {prompts_per_round: 5, group_size: 4, updates_per_round: 1, transitions_per_update: 32}
evaluation: {prompts_per_category: 2, samples_per_prompt: 2}
registry:
  gates: {min_difference_low: -1.0, min_win_rate_low: 0.0, min_diversity_ratio: 0.0,
    max_judge_error: 1.0}
  reward: {gates: {min_accuracy_low: 0.0, min_lead: -1.0, max_calibration_error: 1.0, audit: false}}
"""


def checkout(folder: Path) -> Path:
    """The working tree as a repository of its own, with the small settings."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=SOURCE,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and name != "dvc.lock" and (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, folder / name)
    apply(folder, SMALL)
    commit_all(folder)
    return folder


def apply(folder: Path, settings: str) -> None:
    """Write other values into `params.yaml`."""
    (folder / "profiles" / "test.yaml").write_text(settings)
    assert apply_profile(folder, "test")


def call(folder: Path, *command: str) -> str:
    """Run `python -m ...` in `folder` and return all that it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=command_environment(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTHONPATH=str(folder),
            KONOMI_TRACKING="on",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file that a stage wrote."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("data", "models", "reports")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_three_ways_give_the_same_bytes(tmp_path: Path) -> None:
    by_dvc, by_flow, by_hand = (checkout(tmp_path / name) for name in ("dvc", "flow", "hand"))
    call(by_dvc, "dvc", "repro")
    expected = hashes(by_dvc)
    # One file of each stage is there at least: equal and empty would be no success.
    assert {f"reports/{stage}.json" for stage in STAGES[:-1]} <= set(expected)
    assert {"models/lora/adapter.json", "reports/receipt.json"} <= set(expected)

    for stage in STAGES:
        call(by_hand, f"components.{stage}")
    assert hashes(by_hand) == expected

    call(by_flow, "flows.cli", "run")
    assert hashes(by_flow) == expected
    assert (by_flow / "dvc.lock").read_bytes() == (by_dvc / "dvc.lock").read_bytes()
    assert "up to date" in call(by_flow, "dvc", "repro")

    apply(by_dvc, "evaluation: {samples_per_prompt: 3}")
    told = call(by_dvc, "dvc", "repro")
    assert re.findall(r"Running stage '(\w+)'", told) == ["evaluation", "registry"]
