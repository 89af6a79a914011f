"""Measure the base models and draw the README's pictures: python -m components.miniature.figures.

`--part reconstructions|samples|figures|flow|consistency` does only one of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.contracts.intervals import wilson_interval
from components.miniature import judge as judges
from components.miniature import tokens, training
from components.miniature.prompts import listed_prompts
from components.miniature.scenes import render, sample_scene
from components.miniature.world import BASE_STYLES, HELD_OUT_STYLE, STYLES, TASKS

BASE_DIR: Final = training.ROOM / "base"
FLOW_DIR: Final = training.ROOM / "flow"
CONSISTENCY_DIR: Final = training.ROOM / "consistency"
CONSISTENCY_STEPS: Final = (1, 2, 4, 8)

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


def load_flow(folder: Path = FLOW_DIR) -> StableDiffusion3Pipeline:
    """Open the base model of the flow-matching kind in float32, quietly."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_consistency(folder: Path = CONSISTENCY_DIR) -> LatentConsistencyModelPipeline:
    """Open the consistency model in float32, quietly."""
    pipeline = LatentConsistencyModelPipeline.from_pretrained(folder, torch_dtype=torch.float32)
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


def draw_flow(
    pipeline: StableDiffusion3Pipeline,
    prompts: Sequence[str],
    seed: int,
    *,
    num_steps: int = 10,
    guidance_scale: float = 1.0,
    num_zero_states: int = tokens.MAX_LENGTH,
) -> Tensor:
    """Draw one picture per prompt with Euler steps: uint8 [b, 3, 64, 64].

    `num_zero_states` stand in for T5's; diffusers' own default is 256.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(prompts), 32):
        images = pipeline(
            list(prompts[start : start + 32]),
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=num_zero_states,
            generator=generator,
            height=64,
            width=64,
            output_type="np",
        ).images
        parts.append(torch.from_numpy((images * 255).round().astype(np.uint8)))
    return torch.cat(parts).permute(0, 3, 1, 2).contiguous()


def draw_consistency(
    pipeline: LatentConsistencyModelPipeline,
    prompts: Sequence[str],
    seed: int,
    *,
    num_steps: int = 4,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Draw one picture per prompt with consistency steps: uint8 [b, 3, 64, 64].

    The network is told `guidance_scale`, so any of them costs one pass a step.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(prompts), 32):
        images = pipeline(
            list(prompts[start : start + 32]),
            num_inference_steps=num_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            height=64,
            width=64,
            output_type="np",
        ).images
        parts.append(torch.from_numpy((images * 255).round().astype(np.uint8)))
    return torch.cat(parts).permute(0, 3, 1, 2).contiguous()


def measure_base(num_per_task: int = 100) -> dict[str, object]:
    """Return the share of correct pictures by task, unguided and guided, with Wilson intervals."""
    pipeline = load_base()
    ways = {
        "unguided_5_steps_eta_1": {"num_steps": 5, "guidance_scale": 1.0, "eta": 1.0},
        "guided_3_20_steps_eta_1": {"num_steps": 20, "guidance_scale": 3.0, "eta": 1.0},
    }
    drawn = {way: partial(draw, pipeline, seed=11, **options) for way, options in ways.items()}  # type: ignore[arg-type]
    return _measure(drawn, num_per_task)


def measure_flow(num_per_task: int = 100) -> dict[str, object]:
    """Return what `measure_base` does, for the base model of the flow-matching kind."""
    pipeline = load_flow()
    ways = {
        "unguided_10_steps": {"num_steps": 10, "guidance_scale": 1.0},
        "guided_3_20_steps": {"num_steps": 20, "guidance_scale": 3.0},
    }
    drawn = {way: partial(draw_flow, pipeline, seed=11, **options) for way, options in ways.items()}  # type: ignore[arg-type]
    return _measure(drawn, num_per_task)


def measure_consistency(num_per_task: int = 100) -> dict[str, object]:
    """Return what `measure_base` does, for the consistency model with few steps and fewer."""
    pipeline = load_consistency()
    drawn: dict[str, Callable[..., Tensor]] = {}
    for name, guidance_scale in (("unguided", 1.0), ("guided_3", 3.0)):
        for num_steps in CONSISTENCY_STEPS:
            drawn[f"{name}_{num_steps}_steps"] = partial(
                draw_consistency,
                pipeline,
                seed=11,
                num_steps=num_steps,
                guidance_scale=guidance_scale,
            )
    return _measure(drawn, num_per_task)


def _measure(ways: dict[str, Callable[..., Tensor]], num_per_task: int) -> dict[str, object]:
    judge = judges.load()
    rng = np.random.default_rng(7)
    listed = listed_prompts()
    report: dict[str, object] = {"judge_error_rate": judge.error_rate}
    for way, drawn in ways.items():
        cells: dict[str, object] = {}
        total = 0
        start = time.perf_counter()
        for task in TASKS:
            choices = [prompt for prompt, category in listed if category == task]
            prompts = rng.choice(choices, num_per_task).tolist()
            hits = int(judge.correct(drawn(prompts=prompts), prompts).sum())
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


def flow_grid(pipeline: StableDiffusion3Pipeline, columns: int = 8) -> Image.Image:
    """Return a grid like `sample_grid`: its left half drawn without guidance, the right with."""
    pictures = []
    for guidance_scale in (1.0, 3.0):
        prompts = [prompt for prompt in GRID_PROMPTS for _ in range(columns // 2)]
        images = draw_flow(pipeline, prompts, 5, num_steps=10, guidance_scale=guidance_scale)
        pictures.append(images.unflatten(0, (len(GRID_PROMPTS), -1)))
    return _grid(torch.cat(pictures, dim=1).flatten(0, 1), columns, GRID_PROMPTS)


def consistency_grid(pipeline: LatentConsistencyModelPipeline, each: int = 2) -> Image.Image:
    """Return a grid of samples with guidance 3: `each` with 1 step, then with 2, 4 and 8."""
    prompts = [prompt for prompt in GRID_PROMPTS for _ in range(each)]
    pictures = []
    for num_steps in CONSISTENCY_STEPS:
        images = draw_consistency(pipeline, prompts, 5, num_steps=num_steps, guidance_scale=3.0)
        pictures.append(images.unflatten(0, (len(GRID_PROMPTS), each)))
    columns = each * len(CONSISTENCY_STEPS)
    return _grid(torch.cat(pictures, dim=1).flatten(0, 1), columns, GRID_PROMPTS)


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
    """Write the pictures beside this file and what was measured into reports/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("reconstructions", "samples", "figures", "flow", "consistency")
    parser.add_argument("--part", choices=parts)
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
    if part in (None, "flow"):
        _write_png(flow_grid(load_flow()), training.ROOM / "flow_grid.png")
        report = measure_flow()
        print(json.dumps(report, indent=1))
        training.write_json(training.ROOM / "reports" / "flow.json", report)
    if part in (None, "consistency"):
        _write_png(consistency_grid(load_consistency()), training.ROOM / "consistency_grid.png")
        report = measure_consistency()
        print(json.dumps(report, indent=1))
        training.write_json(training.ROOM / "reports" / "consistency.json", report)


if __name__ == "__main__":
    main()
