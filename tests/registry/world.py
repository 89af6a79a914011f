"""A small project in a folder, as the stages before the registry leave it: tiny base, real LoRA."""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from components.contracts.artifacts import encode_png, write_bytes, write_json, write_text
from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.stage import stage_main
from components.contracts.tables import PROMPTS, write_table
from components.diffusion import load_policy
from components.registry.stage import run
from components.tracking import open_tracker
from tests.support.tiny import tiny_base
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
registry: {model_name: tiny-lora}
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
GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]


def build_project(root: Path, family: str = "unet") -> Path:
    """Write everything that the stage reads."""
    root.mkdir(parents=True, exist_ok=True)
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
    write_text(root / "models/reward/config.json", "{}")
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
    report: Any = copy.deepcopy(EVALUATION)
    here = report
    for step in path[:-1]:
        here = here[step]
    if path:
        here[path[-1]] = value
    write_json(root / "reports/evaluation.json", report)


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
