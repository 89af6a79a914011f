"""A small project in a folder, as the stages before the registry leave it: tiny base, real LoRA,
real reward model."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch

from components.contracts.artifacts import encode_png, write_bytes, write_json, write_text
from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.stage import stage_main
from components.contracts.tables import PROMPTS, write_table
from components.diffusion import load_policy
from components.registry.stage import run
from components.rewards.backbones.two_towers import TwoTowers
from components.tracking import open_tracker
from components.tracking.environment import set_defaults
from tests.support.tiny import tiny_base
from tests.support.tiny_clip import tiny_clip
from tests.support.tiny_consistency import tiny_consistency_base
from tests.support.tiny_flow import tiny_flow_base

COMPUTE = ComputeSettings(device="cpu", threads=1)
FAMILIES: dict[str, tuple[Callable[[Path], Path], BaseSettings]] = {
    "unet": (tiny_base, BaseSettings(path="base", num_steps=3, batch_size=1)),
    "consistency": (
        tiny_consistency_base,
        BaseSettings(path="base", num_steps=3, guidance_scale=2.0, batch_size=1),
    ),
    # With the noise of an SDE, as methods need it.
    "flow": (
        tiny_flow_base,
        BaseSettings(path="base", num_steps=3, noise_level=0.7, guidance_scale=2.0, batch_size=1),
    ),
}
"""How the base of each family is written, and how it is drawn from."""
PARAMS = """
seed: 3
compute: {device: cpu, threads: 1}
registry: {model_name: tiny-lora, reward: {model_name: tiny-reward}}
"""
EVALUATION: dict[str, Any] = {
    "schema_version": 1,
    "verdict": "better",
    "judge_error_rate": 0.01,
    "base": {"correct": 0.49},
    "lora": {"correct": 0.61},
    "difference": {"value": 0.12, "interval": [0.08, 0.16]},
    "win_rate": {"value": 0.6, "interval": [0.55, 0.65]},
    "reward_hacking": "no",
    "drift": {
        "diversity_ratio": 0.93,
        "brightness": {"difference": 0.02},
        "saturation": {"difference": -0.03},
    },
    "by_category": {
        name: {
            "base": {"correct": 0.5},
            "lora": {"correct": 0.6},
            "difference": {"value": 0.1, "interval": [0.05, 0.15]},
        }
        for name in ("colour", "count")
    },
}
REWARDS: dict[str, Any] = {
    "schema_version": 2,
    "architecture": "two_towers",
    "accuracy": 0.742,
    "accuracy_low": 0.71,
    "accuracy_high": 0.772,
    "pairs": 603,
    "backbone_accuracy": 0.551,
    "calibration_error": 0.031,
    "train_pairs": 6138,
    "test_pairs": 864,
    "test_ties": 261,
    "by_category": {
        name: {"accuracy": 0.7, "accuracy_low": 0.62, "accuracy_high": 0.77, "pairs": 300}
        for name in ("colour", "count")
    },
    "by_margin": [
        {
            "low": low,
            "high": low + 0.5,
            "accuracy": 0.55 + low / 4,
            "accuracy_low": 0.5,
            "accuracy_high": 0.95,
            "pairs": 151,
        }
        for low in (0.0, 0.5, 1.0, 1.5)
    ],
    "calibration": [
        {"predicted": place, "observed": place + 0.03, "count": 90}
        for place in (0.05, 0.25, 0.45, 0.65, 0.85)
    ],
    "saturation": {"share": 0.041, "accuracy": 0.98},
    "annotators": {
        "Ann": {
            "accuracy": 0.76,
            "accuracy_low": 0.71,
            "accuracy_high": 0.8,
            "pairs": 310,
            "reliability": 0.93,
        },
        "Bob": {
            "accuracy": 0.66,
            "accuracy_low": 0.6,
            "accuracy_high": 0.71,
            "pairs": 293,
            "reliability": None,
        },
    },
    "learning_curve": [
        {
            "prompts": prompts,
            "judgements": 9 * prompts,
            "accuracy": accuracy,
            "accuracy_low": accuracy - 0.04,
            "accuracy_high": accuracy + 0.04,
            "pairs": 603,
        }
        for prompts, accuracy in ((50, 0.62), (100, 0.68), (200, 0.715), (400, 0.742))
    ],
    "ensemble": None,
}
AUDIT: dict[str, Any] = {
    "passed": True,
    "checks": {
        "captured": {
            "passed": True,
            "figure": 0.41,
            "limit": 0.25,
            "at_most": False,
            "sentence": "choosing the best of 6 by the reward gets 52 % [41, 63] of what the "
            "judge's own choice gains",
        },
        "shortcut": {
            "passed": True,
            "figure": 0.37,
            "limit": 1.0,
            "at_most": True,
            "sentence": "more saturation changes the reward by +0.37 [+0.30, +0.44]",
        },
    },
    "best_of_n": {
        "n": [1, 2, 3, 4, 5, 6],
        "score": {
            "picked": [0.4, 0.47, 0.51, 0.54, 0.56, 0.57],
            "picked_low": [0.38, 0.45, 0.48, 0.51, 0.53, 0.54],
            "picked_high": [0.42, 0.49, 0.54, 0.57, 0.59, 0.6],
            "oracle": [0.4, 0.53, 0.6, 0.65, 0.68, 0.71],
        },
    },
    "sensitivity": {
        name: {"shortcut": value}
        for name, value in (("more saturation", 0.37), ("sharper", 0.2), ("white border", 0.05))
    },
}
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]


@cache
def empty_store() -> bytes:
    """A tracking store without an experiment: making its tables takes longer than the stage."""
    set_defaults()
    from mlflow import MlflowClient

    with TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_registered_models()
        return path.read_bytes()


def build_project(root: Path, family: str = "unet") -> Path:
    """Write everything that the stage reads."""
    root.mkdir(parents=True, exist_ok=True)
    write_bytes(root / "mlflow.db", empty_store())
    write_base, base = FAMILIES[family]
    write_base(root / "base")
    write_text(root / "params.yaml", f"{PARAMS}base: {base.model_dump_json()}\n")
    texts = ["a green rabbit", "two red cats | dogs"]
    rows = pa.table(
        {
            "prompt_id": ["1", "2"],
            "prompt": texts,
            "category": ["colour", "count"],
            "source": ["test", "test"],
            "num_tokens": pa.array([5, 6], pa.int32()),
        }
    )
    write_table(root / "data/prompts/test.parquet", rows, PROMPTS)
    write_text(root / "data/preferences/pairs.txt", "pairs")
    write_reward(root)
    write_rewards(root)
    write_json(root / "reports/rewards_audit.json", AUDIT)
    write_text(root / "reports/rewards_audit.html", "<p>audit</p>")
    picture = torch.randint(0, 256, (3, 120, 200), generator=torch.Generator().manual_seed(0))
    write_bytes(root / "reports/grid.png", encode_png(picture.byte()))
    write_text(root / "reports/report.html", "<p>report</p>")
    write_evaluation(root)
    write_lora(root, base)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([*GIT, "commit", "-q", "--allow-empty", "-m", "x"], cwd=root, check=True)
    return root


def write_evaluation(root: Path, *path: str | int, value: Any = None) -> None:
    """Write the report, with the figure at `path` replaced."""
    write_json(root / "reports/evaluation.json", changed(EVALUATION, *path, value=value))


def write_rewards(root: Path, *path: str | int, value: Any = None) -> None:
    """Write the reward model's report, likewise."""
    write_json(root / "reports/rewards.json", changed(REWARDS, *path, value=value))


def changed(report: dict[str, Any], *path: str | int, value: Any = None) -> dict[str, Any]:
    """A copy with the figure at `path` replaced."""
    copied: Any = copy.deepcopy(report)
    here = copied
    for step in path[:-1]:
        here = here[step]
    if path:
        here[path[-1]] = value
    return copied  # type: ignore[no-any-return]


def write_reward(root: Path, seed: int = 1) -> None:
    """A reward model of random weights, as the stage `rewards` leaves it."""
    model = TwoTowers.open(tiny_clip(root / ".work/clip", seed), torch.Generator())
    model.mean, model.std = 0.5, 2.0
    model.save(root / "models/reward")


def write_lora(root: Path, base: BaseSettings = FAMILIES["unet"][1], seed: int = 1) -> None:
    """Train nothing, but move the second factors so that the LoRA is visible."""
    policy = load_policy(base.model_copy(update={"path": str(root / "base")}), COMPUTE)
    generator = torch.Generator().manual_seed(seed)
    policy.add_adapter(4, 32, generator=generator)
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    policy.save_lora(root / "models/lora")
    info = {"method": "dpok", "rank": 4, "alpha": 32, "base_digest": policy.digest}
    write_json(root / "models/lora/adapter.json", info)


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """Work in the project's folder, as every stage does."""
    before = Path.cwd()
    os.chdir(root)
    try:
        yield
    finally:
        os.chdir(before)


def run_stage(root: Path) -> int:
    """The stage as `python -m components.registry` runs it; its exit status."""
    with inside(root):
        return stage_main("registry", run, open_tracker, [])
