"""Measure the base model and draw the README's pictures: python -m components.miniature.figures.

`--part reconstructions|samples|figures` does only one of the three.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.contracts.intervals import wilson_interval
from components.miniature import judge as judges
from components.miniature import training
from components.miniature.prompts import listed_prompts
from components.miniature.scenes import render, sample_scene
from components.miniature.world import BASE_STYLES, HELD_OUT_STYLE, STYLES, TASKS

BASE_DIR: Final = training.ROOM / "base"

GRID_PROMPTS: Final = (
    "a green rabbit",
    "four wolves",
    "a cat and a dog",
    "a dog on the moon",
    "a blue lion",
    "three apples",
    "a fish and a mushroom",
    "a penguin in the snow",
)


def load_base(folder: Path = BASE_DIR) -> StableDiffusionPipeline:
    """Open the base model in float32, quietly."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seed: int,
    *,
    num_steps: int = 5,
    guidance_scale: float = 1.0,
    eta: float = 1.0,
) -> Tensor:
    """Draw one picture per prompt with DDIM: uint8 [b, 3, 64, 64]."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(prompts), 32):
        images = pipeline(
            list(prompts[start : start + 32]),
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            eta=eta,
            generator=generator,
            height=64,
            width=64,
            output_type="np",
        ).images
        parts.append(torch.from_numpy((images * 255).round().astype(np.uint8)))
    return torch.cat(parts).permute(0, 3, 1, 2).contiguous()


def measure_base(num_per_task: int = 100) -> dict[str, object]:
    """Return the share of correct pictures by task, unguided and guided, with Wilson intervals."""
    pipeline, judge = load_base(), judges.load()
    rng = np.random.default_rng(7)
    listed = listed_prompts()
    report: dict[str, object] = {"judge_error_rate": judge.error_rate}
    ways = {
        "unguided_5_steps_eta_1": {"num_steps": 5, "guidance_scale": 1.0, "eta": 1.0},
        "guided_3_20_steps_eta_1": {"num_steps": 20, "guidance_scale": 3.0, "eta": 1.0},
    }
    for way, options in ways.items():
        cells: dict[str, object] = {}
        total = 0
        start = time.perf_counter()
        for task in TASKS:
            choices = [prompt for prompt, category in listed if category == task]
            prompts = rng.choice(choices, num_per_task).tolist()
            images = draw(pipeline, prompts, 11, **options)  # type: ignore[arg-type]
            hits = int(judge.correct(images, prompts).sum())
            total += hits
            cells[task] = _share(hits, num_per_task)
        cells["all"] = _share(total, num_per_task * len(TASKS))
        cells["images_per_second"] = round(
            num_per_task * len(TASKS) / (time.perf_counter() - start), 1
        )
        report[way] = cells
    return report


def _share(hits: int, num: int) -> dict[str, object]:
    low, high = wilson_interval(hits / num, num)
    return {"correct": hits / num, "interval_95": [round(low, 3), round(high, 3)], "num": num}


def sample_grid(pipeline: StableDiffusionPipeline, columns: int = 8) -> Image.Image:
    """Return a grid of guided samples, one prompt per row, its words beside it."""
    prompts = [prompt for prompt in GRID_PROMPTS for _ in range(columns)]
    images = draw(pipeline, prompts, 5, num_steps=20, guidance_scale=3.0)
    return _grid(images, columns, GRID_PROMPTS)


@torch.no_grad()
def reconstruction_grid(columns: int = 12) -> Image.Image:
    """Return held-out scenes above their reconstructions: base styles, then the held-out style."""
    vae = AutoencoderKL.from_pretrained(BASE_DIR / "vae", torch_dtype=torch.float32).eval()
    rows, names = [], []
    trained = [style for style in STYLES if style != HELD_OUT_STYLE]
    for row, styles in enumerate((BASE_STYLES, trained, (HELD_OUT_STYLE,))):
        rng = np.random.default_rng([9, row])
        scenes: list[NDArray[np.uint8]] = []
        while len(scenes) < columns:
            try:
                scenes.append(render(sample_scene(rng), rng, styles))
            except ValueError:
                continue
        images = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).contiguous()
        output = vae.decode(vae.encode(training.to_unit(images)).latent_dist.mean).sample
        rows += [images, training.to_bytes(output)]
        names += ["render", "reconstruction" if row < 2 else "same, unseen style"]
    return _grid(torch.cat(rows), columns, names)


def _grid(images: Tensor, columns: int, names: Sequence[str]) -> Image.Image:
    """Lay out uint8 [b, 3, 64, 64] row by row at double size, a name left of each row."""
    side, label = 132, 220
    grid = Image.new("RGB", (label + side * columns, side * len(names)), "white")
    pen, font = ImageDraw.Draw(grid), ImageFont.load_default(20)
    for row, name in enumerate(names):
        pen.text((8, row * side + 54), name, fill="black", font=font)
        for column in range(columns):
            picture = images[row * columns + column].permute(1, 2, 0).contiguous().numpy()
            large = Image.fromarray(picture).resize((128, 128), Image.Resampling.BICUBIC)
            grid.paste(large, (label + column * side + 2, row * side + 2))
    return grid


def _write_png(image: Image.Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    image.save(temporary, format="PNG", optimize=True)
    temporary.replace(path)


def main() -> None:
    """Write reconstructions.png, sample_grid.png and reports/base.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("reconstructions", "samples", "figures"))
    part = parser.parse_args().part
    torch.set_num_threads(2)
    if part in (None, "reconstructions"):
        _write_png(reconstruction_grid(), training.ROOM / "reconstructions.png")
    if part in (None, "samples"):
        _write_png(sample_grid(load_base()), training.ROOM / "sample_grid.png")
    if part in (None, "figures"):
        report = measure_base()
        print(json.dumps(report, indent=1))
        training.write_json(training.ROOM / "reports" / "base.json", report)


if __name__ == "__main__":
    main()
