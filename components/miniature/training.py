"""What the room's trainings share: settings, rendered data, learning rate, atomic checkpoints."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.miniature.scenes import Scene, render, sample_scene

ROOM: Final = Path(__file__).parent
CHECKPOINTS: Final = ROOM / ".checkpoints"
"""Where an interrupted training goes on from; ignored by git."""


def settings(stage: str) -> dict[str, Any]:
    """Return the block of params.yaml that belongs to `stage` (KeyError names a missing one)."""
    return dict(yaml.safe_load((ROOM / "params.yaml").read_text())[stage])


def rendered_scenes(
    num: int, seed: int, styles: Sequence[str]
) -> tuple[NDArray[np.uint8], list[Scene]]:
    """Draw `num` random scenes in two processes.

    Every block of 1000 scenes has a random stream of its own, so the result does not depend on
    the number of processes.

    Returns:
        uint8 [num, 64, 64, 3] and the scenes.
    """
    blocks = [(min(1000, num - start), seed, start, tuple(styles)) for start in range(0, num, 1000)]
    with ProcessPoolExecutor(2) as pool:
        parts = list(pool.map(_render_block, blocks))
    images = np.concatenate([images for images, _ in parts])
    return images, [scene for _, scenes in parts for scene in scenes]


def _render_block(
    block: tuple[int, int, int, tuple[str, ...]],
) -> tuple[NDArray[np.uint8], list[Scene]]:
    num, seed, start, styles = block
    rng = np.random.default_rng([seed, start])
    scenes: list[Scene] = []
    images: list[NDArray[np.uint8]] = []
    while len(scenes) < num:
        scene = sample_scene(rng)
        try:
            images.append(render(scene, rng, styles))
        except ValueError:  # none of the styles draws all of it
            continue
        scenes.append(scene)
    return np.stack(images), scenes


@contextmanager
def initialised_from(seed: int) -> Iterator[None]:
    """Let new layers draw their first weights from `seed`.

    Libraries initialise from torch's global generator; its state is put back afterwards.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def to_unit(images: Tensor) -> Tensor:
    """Map uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Map float images in [-1, 1] (values beyond are cut) to uint8."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def one_cycle(update: int, num_updates: int, num_warmup: int) -> float:
    """Return the learning-rate factor in [0, 1]: linear warmup, then cosine decay to zero."""
    if update < num_warmup:
        return (update + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (update - num_warmup) / max(1, num_updates - num_warmup)))


def train(
    name: str,
    module: nn.Module,
    loss: Callable[[int, torch.Generator], Tensor],
    *,
    num_updates: int,
    learning_rate: float,
    seed: int,
    num_warmup: int = 200,
    weight_decay: float = 0.01,
    ema_decay: float = 0.0,
    snapshot: Callable[[Mapping[str, Tensor]], None] | None = None,
    snapshot_every: int = 10**9,
) -> tuple[dict[str, Tensor], float]:
    """Run AdamW on `loss(update, generator)` with restart points and an optional average.

    The generator is seeded anew from (seed, update), hence a restarted run sees the same chances
    as an uninterrupted one.

    Args:
        name: the name of the restart file.
        module: holds every trained parameter.
        loss: the scalar loss of one update.
        snapshot: called with the averaged weights every `snapshot_every` updates.

    Returns:
        The averaged weights (the last ones when `ema_decay` is 0) by parameter name, and the
        seconds spent, those before an interruption included.
    """
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay
    )
    names = dict(module.named_parameters())
    average = {key: value.detach().clone() for key, value in names.items()}
    start, before = _resume(name, module, optimizer, average)
    began = time.perf_counter() - before
    generator = torch.Generator()
    running = 0.0
    for update in range(start, num_updates):
        generator.manual_seed(seed * 1_000_003 + update)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * one_cycle(update, num_updates, num_warmup)
        value = loss(update, generator)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        running = value.item() if update == start else 0.98 * running + 0.02 * value.item()
        # A short average at first: the long one would remember the random start.
        decay = min(ema_decay, (update + 1) / (update + 10))
        torch._foreach_lerp_(
            list(average.values()), [p.detach() for p in names.values()], 1 - decay
        )
        if (update + 1) % 100 == 0:
            print(f"{name} {update + 1}/{num_updates} loss {running:.5f}", flush=True)
        if (update + 1) % 500 == 0 and update + 1 < num_updates:
            spent = time.perf_counter() - began
            _checkpoint(name, module, optimizer, average, update + 1, spent)
        if snapshot is not None and (update + 1) % snapshot_every == 0:
            snapshot(average)
    return average, time.perf_counter() - began


def _checkpoint(
    name: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor],
    update: int,
    seconds: float,
) -> None:
    tensors = {f"average.{key}": value for key, value in average.items()}
    # Running statistics of batch normalisation are state as well.
    tensors |= {f"buffer.{key}": value for key, value in module.named_buffers()}
    for key, parameter in module.named_parameters():
        tensors[f"weight.{key}"] = parameter.detach()
        state = optimizer.state[parameter]
        tensors[f"first.{key}"] = state["exp_avg"]
        tensors[f"second.{key}"] = state["exp_avg_sq"]
    tensors = {key: value.contiguous() for key, value in tensors.items()}
    write_safetensors(
        CHECKPOINTS / f"{name}.safetensors",
        tensors,
        {"update": str(update), "seconds": str(seconds)},
    )


def _resume(
    name: str, module: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> tuple[int, float]:
    path = CHECKPOINTS / f"{name}.safetensors"
    if not path.exists():
        return 0, 0.0
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        update = int(file.metadata()["update"])
        seconds = float(file.metadata().get("seconds", 0))
    for key, buffer in module.named_buffers():
        buffer.copy_(tensors[f"buffer.{key}"])
    for key, parameter in module.named_parameters():
        parameter.data.copy_(tensors[f"weight.{key}"])
        average[key].copy_(tensors[f"average.{key}"])
        optimizer.state[parameter] = {
            "step": torch.tensor(float(update)),
            "exp_avg": torch.empty_like(parameter).copy_(tensors[f"first.{key}"]),
            "exp_avg_sq": torch.empty_like(parameter).copy_(tensors[f"second.{key}"]),
        }
    print(f"{name}: goes on at update {update}", flush=True)
    return update, seconds


def finish(name: str) -> None:
    """Remove the restart file of a training whose weights are written."""
    (CHECKPOINTS / f"{name}.safetensors").unlink(missing_ok=True)


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to `path` as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two trainings may want the same latents at once: each has a part of its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(dict(tensors), temporary, metadata={"format": "pt", **(metadata or {})})
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def open_as_float32(config: Path) -> None:
    """Let a library's config.json ask for float32 although the weights beside it are fp16.

    Half precision is how the weights are kept, not how they shall be computed with: without this,
    transformers opens them in half precision and diffusers in single, and they do not fit together.
    """
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})


def save_folder(save: Callable[[str], None], target: Path) -> None:
    """Let `save` write into an empty folder, then move its files into `target` one by one.

    The libraries' `save_pretrained` writes in place; a reader must never see half a file. Where a
    part was once loaded from, which it writes too, is nobody's business.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        save(folder)
        for config in Path(folder).rglob("config.json"):
            content = json.loads(config.read_text(encoding="utf-8"))
            if content.pop("_name_or_path", None) is not None:
                write_json(config, content)
        for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
