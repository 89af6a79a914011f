"""Judge the LoRA of a run's folder.

Test prompts (never trained on) and as many training prompts, each image with the noise that every
run of the seed has. Writes `judged.json` with figures and `images.safetensors` with every image's
verdict, score and reward.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.contracts.artifacts import read_json, write_json, write_safetensors
from components.contracts.settings import load_block, load_run
from components.diffusion import load_policy, sample_images
from components.evaluation.measure import Draws, Measured, choose_draws, measure
from components.evaluation.statistics import as_floats, clustered_bootstrap
from components.finetuning.settings import Settings
from components.miniature.judge import load as load_judge
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import ModelScorerSettings

PROMPTS = {"test": 30, "train": 12}
"""Of each category, unseen and seen ones; four images of each."""
RESAMPLES = 2000


def judge(root: Path, *, quick: bool) -> None:
    """Draw, judge and write; `quick` is a handful of images.

    Args:
        root: the run's folder, which is also the current one.
        quick: few images, to run every line.
    """
    run = load_run(root / "params.yaml")
    settings = load_block(root / "params.yaml", "finetuning", Settings)
    lora = root / "models" / "lora"
    policy = load_policy(run.base, run.compute, lora=lora if lora.exists() else None)
    scorer = build_scorer(ModelScorerSettings(), run.compute, root)
    eyes = load_judge()
    judged: dict[str, Any] = {"method": settings.method.name}
    tensors: dict[str, torch.Tensor] = {}
    for split in PROMPTS:
        prompts = 2 if quick else PROMPTS[split]
        draws = choose_draws(root / f"data/prompts/{split}.parquet", run.seed, prompts, 4)
        images, _ = sample_images(policy, draws.texts, draws.seeds)
        found = measure(images, draws, eyes, scorer, split)
        judged[split] = _figures(found, draws, run.seed)
        for name in ("correct", "score", "reward"):
            tensors[f"{split}.{name}"] = torch.from_numpy(as_floats(getattr(found, name)))
        tensors[f"{split}.prompt"] = torch.from_numpy(np.asarray(draws.prompt_of))
    if lora.exists():
        judged["finetuning"] = read_json(root / "reports" / "finetuning.json")
        judged["curves"] = _curves(root / "reports" / "curves.csv")
        judged["seconds"] = read_json(root / "seconds.json")
    write_safetensors(root / "images.safetensors", tensors)
    write_json(root / "judged.json", judged)


def _figures(found: Measured, draws: Draws, seed: int) -> dict[str, Any]:
    """Each figure with its interval; prompts are the unit that was drawn."""
    figures: dict[str, Any] = {"num_images": len(found.images), "diversity": found.diversity}
    for name in ("correct", "score", "reward", "brightness", "saturation"):
        values = as_floats(getattr(found, name))
        estimate = clustered_bootstrap(values, draws.prompt_of, seed, RESAMPLES)
        figures[name] = {"value": estimate.value, "interval": [estimate.low, estimate.high]}
    return figures


def _curves(path: Path) -> list[dict[str, float]]:
    """Rows of the curves that hold a look, and the last row: what plots are drawn from."""
    with path.open(encoding="utf-8") as file:
        rows = [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if "validation_reward" in row or row is rows[-1]]
