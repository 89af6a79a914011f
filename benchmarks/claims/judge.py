"""Judge the LoRA of a run's folder.

Test prompts (never trained on) and as many training prompts, each image with the noise that every
run of the seed has. Writes `judged.json`: figures, curves, and every image's verdict, score and
reward, by which two runs are compared in pairs. Of a base it has more images of the same test
prompts, from which the best of n is chosen.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from components.contracts.artifacts import read_json, write_json
from components.contracts.settings import load_run
from components.diffusion import load_policy, sample_images
from components.evaluation.measure import Draws, Measured, choose_draws, measure
from components.evaluation.statistics import as_floats, clustered_bootstrap
from components.miniature.judge import load as load_judge
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import ModelScorerSettings

PROMPTS = {"test": 30, "train": 12}
"""Of each category, unseen and seen ones; four images of each."""
SAMPLES = 4
BASE_SAMPLES = 8
"""Images of each test prompt of which a base shows its best: a split of its own, `draws`."""
RESAMPLES = 2000


def judge(root: Path, few: int | None, *, quick: bool) -> None:
    """Draw, judge and write; `quick` is a handful of images.

    Args:
        root: the run's folder, which is also the current one.
        few: so many prompts of each category were trained on: each is drawn the more often.
        quick: few images, to run every line.
    """
    run = load_run(root / "params.yaml")
    lora = root / "models" / "lora"
    trained = lora.exists()
    policy = load_policy(run.base.without_sde(), run.compute, lora=lora if trained else None)
    scorer = build_scorer(ModelScorerSettings(), run.compute, root)
    eyes = load_judge()
    judged: dict[str, Any] = {}
    splits = [(split, split, prompts, SAMPLES) for split, prompts in PROMPTS.items()]
    if not trained:
        splits.append(("draws", "test", PROMPTS["test"], BASE_SAMPLES))
    for name, split, prompts, samples in splits:
        if split == "train" and few:
            prompts, samples = few, samples * prompts // few
        if quick:
            prompts, samples = 1, min(samples, BASE_SAMPLES)
        draws = choose_draws(root / f"data/prompts/{split}.parquet", run.seed, prompts, samples)
        images, _ = sample_images(policy, draws.texts, draws.seeds)
        found = measure(images, draws, eyes, scorer, name)
        judged[name] = {**_figures(found, draws, run.seed), "images": _by_image(found, draws)}
    if trained:
        judged["finetuning"] = read_json(root / "reports" / "finetuning.json")
        judged["curves"] = _curves(root / "reports" / "curves.csv")
        judged["seconds"] = read_json(root / "seconds.json")
    write_json(root / "judged.json", judged)


def _figures(found: Measured, draws: Draws, seed: int) -> dict[str, Any]:
    """Each figure with its interval; prompts are the unit that was drawn."""
    figures: dict[str, Any] = {"num_images": len(found.images), "diversity": found.diversity}
    for name in ("correct", "score", "reward", "brightness", "saturation"):
        values = as_floats(getattr(found, name))
        estimate = clustered_bootstrap(values, draws.prompt_of, seed, RESAMPLES)
        figures[name] = {"value": estimate.value, "interval": [estimate.low, estimate.high]}
    return figures


def _by_image(found: Measured, draws: Draws) -> dict[str, list[float]]:
    """Every image's prompt, verdict, score and reward, short enough to be kept with the code."""
    return {
        "prompt": draws.prompt_of.tolist(),
        "correct": found.correct.astype(int).tolist(),
        "score": np.round(found.score, 3).tolist(),
        "reward": np.round(found.reward, 3).tolist(),
    }


def _curves(path: Path) -> list[dict[str, float]]:
    """Every row of the curves: what a look cost is told by the row before it."""
    with path.open(encoding="utf-8") as file:
        return [
            {name: float(f"{float(value):.5g}") for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
