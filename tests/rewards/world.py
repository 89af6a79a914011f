"""A preference that a tiny CLIP can learn: of two noisy pictures the redder one is preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from components.contracts.artifacts import write_image_shard
from components.contracts.ids import pair_id, prompt_id, sample_id
from components.contracts.seeds import torch_generator
from components.contracts.tables import PAIRS, RANKINGS, RATINGS, SAMPLES, write_table
from tests.support.tiny_clip import IMAGE_SIZE

WORDS = ("cat", "dog", "red fox", "sea", "tree", "moon", "apple", "bear")
NUM_PROMPTS = {"train": 48, "validation": 12, "test": 24}
SAMPLES_PER_PROMPT = 4


def pictures(count: int, seed: int) -> torch.Tensor:
    """uint8 [count, 3, 16, 16]: noise around a colour of its own for each picture."""
    generator = torch_generator(seed, "pictures")
    level = torch.rand(count, 3, 1, 1, generator=generator) * 180 + 30
    noise = torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 15
    return (level + noise).clamp(0, 255).to(torch.uint8)


def redness(images: torch.Tensor) -> torch.Tensor:
    """What decides: red less the mean of green and blue, [count]."""
    red, green, blue = images.float().mean(dim=(2, 3)).unbind(dim=1)
    return red - (green + blue) / 2


def rows(
    num_prompts: Mapping[str, int] = NUM_PROMPTS,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, torch.Tensor]]:
    """Samples, judgements (a tie where two pictures are alike) and images."""
    samples: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    images: dict[str, torch.Tensor] = {}
    number = 0
    for split, count in num_prompts.items():
        for _ in range(count):
            prompt = f"{WORDS[number % len(WORDS)]} {chr(97 + number // 26)}{chr(97 + number % 26)}"
            shared = {
                "prompt_id": prompt_id(prompt),
                "prompt": prompt,
                "category": ("day", "night")[number % 2],
                "split": split,
            }
            drawn = pictures(SAMPLES_PER_PROMPT, number)
            names = [
                sample_id(shared["prompt_id"], "model", seed) for seed in range(SAMPLES_PER_PROMPT)
            ]
            for seed, (name, image) in enumerate(zip(names, drawn, strict=True)):
                images[name] = image
                samples.append({**shared, "sample_id": name, "seed": seed, "shard": "00000"})
            red = redness(drawn)
            for a, b in ((0, 1), (2, 3), (3, 0)):
                label = "a" if red[a] > red[b] else "b"
                if abs(red[a] - red[b]) < 8:
                    label = "tie"
                pairs.append(
                    {
                        **shared,
                        "pair_id": pair_id(names[a], names[b]),
                        "sample_id_a": names[a],
                        "sample_id_b": names[b],
                        "annotator": "eye",
                        "preference": {"a": 1.0, "b": 0.0, "tie": 0.5}[label],
                        "label": label,
                        "ranking_id": "",
                    }
                )
            number += 1
    return samples, pairs, images


def write_world(
    folder: Path,
    samples: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    images: dict[str, torch.Tensor],
    rankings: Sequence[dict[str, Any]] = (),
    ratings: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write what the stage `preferences` would write, and return `folder`."""
    tables = ((SAMPLES, samples), (PAIRS, pairs), (RANKINGS, rankings), (RATINGS, ratings))
    for schema, rows in tables:
        table = pa.Table.from_pylist(list(rows), schema=schema.columns)
        write_table(folder / f"{schema.name}.parquet", table, schema)
    write_image_shard(folder / "images" / "images-00000.tar", images)
    return folder
