"""DPOK against the base and against supervised fine-tuning, over seeds.

    python -m benchmarks.full_profile --seeds 7 8 9

Each seed runs the whole pipeline from its own split, judgements and reward model, and then both
methods on that same reward, with the same number of images. A run is a clone of this repository
under `.work/full_profile/`, which leaves the working folder alone; all clones share one DVC cache.
What has been run is skipped when the same command is given again. The result is
`benchmarks/results/full_profile.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json, write_json
from components.contracts.stage import git_revision
from flows.profiles import apply_profile, params_yaml

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "full_profile.json"
METHODS = ("dpok", "supervised")


def run(seed: int, method: str, profile: str) -> dict[str, Any]:
    """The evaluation of one method under one seed, with the fine-tuning's own figures."""
    folder = ROOT / ".work" / "full_profile" / f"{profile}-{method}-{seed}"
    if not folder.exists():
        _call(ROOT, "git", "clone", "--quiet", "--local", ".", str(folder))
        _call(folder, "dvc", "config", "--local", "cache.dir", str(ROOT / ".dvc" / "cache"))
        apply_profile(folder, profile)
        _set(folder / "params.yaml", seed, method)
    _call(folder, "dvc", "repro", "evaluation")
    return {
        "seed": seed,
        "method": method,
        "evaluation": read_json(folder / "reports" / "evaluation.json"),
        "finetuning": read_json(folder / "reports" / "finetuning.json"),
        "rewards": read_json(folder / "reports" / "rewards.json"),
    }


def supervised_like(dpok: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Settings of the supervised baseline with as many images and updates as a DPOK block has."""
    images = dpok["prompts_per_round"] * dpok["group_size"] * rounds
    return {
        "name": "supervised",
        "num_images": images,
        "group_size": dpok["group_size"],
        "updates_per_round": dpok["updates_per_round"],
        "samples_per_update": dpok["transitions_per_update"],
        "learning_rate": dpok["learning_rate"],
        "kl": "output",
        "kl_weight": 1.0,
        "reward_transform": "non_negative",
    }


def _set(path: Path, seed: int, method: str) -> None:
    yaml = params_yaml()
    params = yaml.load(path.read_text(encoding="utf-8"))
    params["seed"] = seed
    if method == "supervised":
        block = params["finetuning"]
        block["method"] = supervised_like(block["method"], block["rounds"])
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def _call(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, "KONOMI_TRACKING": "off"})


def main() -> int:
    """Run what is missing and write all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_profile", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--profile", default="full")
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for method in options.methods:
        for seed in options.seeds:
            runs.append(run(seed, method, options.profile))
            write_json(
                RESULTS,
                {"profile": options.profile, "git_revision": git_revision(ROOT), "runs": runs},
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
