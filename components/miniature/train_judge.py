"""Train and examine the judge: python -m components.miniature.train_judge."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.contracts.intervals import wilson_interval
from components.miniature import training
from components.miniature.judge import COLOUR_NAMES, JUDGE_DIR, PLACE_NAMES, Judge, JudgeNetwork
from components.miniature.scenes import Scene, caption, render, sample_scene
from components.miniature.world import BASE_STYLES, COLOURS, OBJECTS, PLACES, STYLES, TASKS


def any_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene that need not have a caption: up to five drawings of up to three objects.

    A generator's mistakes look like this ("three wolves and a cat"); a judge that saw captioned
    scenes only would read the nearest caption into them.
    """
    left = int(rng.integers(0, 6))
    colour = list(COLOURS)[int(rng.integers(len(COLOURS)))] if rng.random() < 0.4 else None
    place = list(PLACES)[int(rng.integers(len(PLACES)))] if rng.random() < 0.3 else None
    objects = []
    for name in rng.permutation(OBJECTS)[:3].tolist():
        count = int(rng.integers(0, left + 1))
        if count:
            objects.append((name, count, colour))
            left -= count
    return Scene(tuple(objects), place)


def draw_scenes(
    num: int, seed: int, styles: Sequence[str], share_of_any: float
) -> tuple[Tensor, list[Scene]]:
    """Draw pictures uint8 [num, 3, 64, 64] and their scenes, `share_of_any` from `any_scene`."""
    rng = np.random.default_rng(seed)
    images: list[np.ndarray] = []
    scenes: list[Scene] = []
    while len(scenes) < num:
        scene = any_scene(rng) if rng.random() < share_of_any else sample_scene(rng)
        try:
            images.append(render(scene, rng, styles))
        except ValueError:  # no style draws all of it
            continue
        scenes.append(scene)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), scenes


def labels(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts int64 [b, 32], colour int64 [b] and place int64 [b] of `scenes`."""
    counts = torch.zeros(len(scenes), len(OBJECTS), dtype=torch.long)
    colours, places = [], []
    for row, scene in enumerate(scenes):
        for name, count, _ in scene.objects:
            counts[row, OBJECTS.index(name)] = count
        colours.append(COLOUR_NAMES.index(scene.objects[0][2] if scene.objects else None))
        places.append(PLACE_NAMES.index(scene.background))
    return counts, torch.tensor(colours), torch.tensor(places)


@torch.no_grad()
def through_autoencoder(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures as a generator would show them: decoded from slightly noisy latents."""
    vae = AutoencoderKL.from_pretrained(training.ROOM / "base" / "vae").eval()
    parts = []
    for part in images.split(64):
        z = vae.encode(training.to_unit(part)).latent_dist.mean
        level = torch.rand((len(z), 1, 1, 1), generator=generator) ** 2 * 0.5
        z = z + level / vae.config.scaling_factor * torch.randn(z.shape, generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(training.to_bytes(vae.decode(z).sample))
    return torch.cat(parts)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, shift, tint and add noise to pictures [b, 3, 64, 64] in [-1, 1]."""
    num = len(images)
    dx, dy = torch.randint(-3, 4, (2,), generator=generator).tolist()
    images = functional.pad(images, (3, 3, 3, 3), mode="replicate")
    images = images[..., 3 + dy : 67 + dy, 3 + dx : 67 + dx]
    blurred = functional.avg_pool2d(functional.pad(images, (1,) * 4, mode="replicate"), 3, 1)
    mix = torch.rand((num, 1, 1, 1), generator=generator)
    mix = mix * (torch.rand((num, 1, 1, 1), generator=generator) < 0.5)
    images = images + mix * (blurred - images)
    gain = 1 + 0.1 * torch.randn((num, 1, 1, 1), generator=generator)
    tint = 0.06 * torch.randn((num, 3, 1, 1), generator=generator)
    level = 0.12 * torch.rand((num, 1, 1, 1), generator=generator)
    return images * gain + tint + level * torch.randn(images.shape, generator=generator)


def examine(judge: Judge, seed: int, num: int = 400) -> dict[str, object]:
    """Measure the judge on fresh renders of every style and task, `num` each.

    Errors are renders whose own caption the judge denies.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for style in STYLES:
        for task in TASKS:
            rng = np.random.default_rng([seed, STYLES.index(style), TASKS.index(task)])
            images: list[NDArray[np.uint8]] = []
            captions: list[str] = []
            while len(images) < num:
                scene = sample_scene(rng, task)
                try:
                    images.append(render(scene, rng, [style]))
                except ValueError:
                    continue
                captions.append(caption(scene))
            pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
            errors = int((~judge.correct(pictures, captions)).sum())
            for kind, key in (("style", style), ("task", task), ("all", "all")):
                cell = groups.setdefault(kind, {}).setdefault(key, [0, 0])
                cell[0] += errors
                cell[1] += num

    def row(cell: list[int]) -> dict[str, object]:
        low, high = wilson_interval(cell[0] / cell[1], cell[1])
        return {"error_rate": cell[0] / cell[1], "interval_95": [low, high], "num": cell[1]}

    return {
        **row(groups["all"]["all"]),
        "by_style": {key: row(cell) for key, cell in groups["style"].items()},
        "by_task": {key: row(cell) for key, cell in groups["task"].items()},
        "base_styles": list(BASE_STYLES),
    }


def main() -> None:
    """Train the judge, examine it, and write judge/."""
    chosen = training.settings("judge")
    torch.set_num_threads(chosen["num_threads"])
    images, scenes = draw_scenes(chosen["num_scenes"], chosen["seed"], STYLES, 0.5)
    chance = torch.Generator().manual_seed(chosen["seed"])
    decoded = through_autoencoder(images[: len(images) // 3], chance)
    images[: len(decoded)] = decoded
    counts, colours, places = labels(scenes)
    with training.initialised_from(chosen["seed"]):
        network = JudgeNetwork()

    def loss(update: int, generator: torch.Generator) -> Tensor:
        picked = torch.randint(len(images), (chosen["batch_size"],), generator=generator)
        inputs = augment(training.to_unit(images[picked]), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reading = network(inputs)
        count_loss = functional.nll_loss(
            reading.count_log_prob.flatten(0, 1), counts[picked].flatten(), reduction="none"
        )
        return (
            count_loss.view(len(picked), -1).sum(1).mean()
            + functional.nll_loss(reading.colour_log_prob, colours[picked])
            + functional.nll_loss(reading.place_log_prob, places[picked])
        )

    _, seconds = training.train(
        "judge",
        network,
        loss,
        num_updates=chosen["num_updates"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
    )
    weights = {
        key: value.half() if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(weights)  # examine what is written
    training.write_safetensors(JUDGE_DIR / "model.safetensors", weights)
    training.write_json(
        JUDGE_DIR / "config.json",
        {
            "width": network.width,
            "objects": OBJECTS,
            "colours": COLOUR_NAMES,
            "places": PLACE_NAMES,
        },
    )
    report = examine(Judge(network, {}), chosen["seed"] + 1000)
    report["train_seconds"] = round(seconds)
    print(json.dumps(report), flush=True)
    training.write_json(JUDGE_DIR / "report.json", report)
    training.finish("judge")


if __name__ == "__main__":
    main()
