"""Scenes: what a picture of the miniature world shows, its exact caption, and its drawing."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.miniature import backgrounds, sprites
from components.miniature.world import (
    BASE_STYLES,
    COLOURS,
    IMAGE_SIZE,
    NUMBERS,
    OBJECTS,
    PLACES,
    PLURALS,
    TASKS,
)

PROMPTS_PATH: Final = Path(__file__).parent / "prompts.csv"

_SINGULARS: Final = {plural: name for name, plural in PLURALS.items()}
_NUMBER_WORDS: Final = {number: word for word, number in NUMBERS.items()}

# Centres in pixels and the range of sizes, by the number of drawings: far enough apart that the
# jitter can never hide one drawing behind another.
_LAYOUTS: Final[dict[int, tuple[tuple[tuple[int, int], ...], tuple[int, int], int]]] = {
    0: ((), (38, 46), 0),
    1: (((32, 32),), (38, 46), 4),
    2: (((17, 32), (47, 32)), (26, 30), 2),
    3: (((32, 17), (17, 47), (47, 47)), (24, 27), 2),
    4: (((17, 17), (47, 17), (17, 47), (47, 47)), (24, 27), 2),
    5: (((12, 12), (52, 12), (32, 32), (12, 52), (52, 52)), (20, 22), 1),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        objects: (name, count, colour) of each kind of object; colour None is the artist's own.
        background: a key of `world.PLACES`, or None for plain paper.
    """

    objects: tuple[tuple[str, int, str | None], ...]
    background: str | None = None

    @property
    def task(self) -> str:
        """The kind of prompt, one of `TASKS`."""
        if len(self.objects) > 1:
            return "composition"
        if self.background is not None:
            return "location"
        _, count, colour = self.objects[0]
        if colour is not None:
            return "colour"
        return "count" if count > 1 else "plain"


def caption(scene: Scene) -> str:
    """Return the exact prompt of `scene`, e.g. "a dog on the moon"."""
    words = " and ".join(_phrase(*item) for item in scene.objects)
    return words if scene.background is None else f"{words} {PLACES[scene.background]}"


def parse_prompt(text: str) -> Scene:
    """Return the scene that `text` asks for: the exact inverse of `caption`.

    Raises:
        ValueError: `text` is not a caption of this world; the message quotes it.
    """
    phrase, background = text, None
    for place, words in PLACES.items():
        if text.endswith(f" {words}"):
            phrase, background = text.removesuffix(f" {words}"), place
    objects: list[tuple[str, int, str | None]] = []
    for part in phrase.split(" and "):
        first, *middle, last = part.split(" ") if " " in part else ("", "")
        colour = middle[0] if middle else None
        if first in NUMBERS and not middle and last in _SINGULARS:
            objects.append((_SINGULARS[last], NUMBERS[first], None))
        elif last in PLURALS and len(middle) <= 1 and (colour is None or colour in COLOURS):
            objects.append((last, 1, colour))
        else:
            raise ValueError(f"prompt {text!r} is not of the miniature world: {part!r} is unknown")
    scene = Scene(tuple(objects), background)
    if caption(scene) != text or scene not in _sensible(scene):
        raise ValueError(f"prompt {text!r} is not of the miniature world: see prompts.csv")
    return scene


def all_scenes(task: str) -> tuple[Scene, ...]:
    """Return every scene of `task` (every ordered pair of objects for composition).

    Raises:
        KeyError: `task` is not one of `TASKS`.
    """
    return {
        "colour": tuple(Scene(((name, 1, c),)) for name in OBJECTS for c in COLOURS),
        "count": tuple(Scene(((name, n, None),)) for name in OBJECTS for n in _NUMBER_WORDS),
        "composition": tuple(
            Scene(((a, 1, None), (b, 1, None))) for a in OBJECTS for b in OBJECTS if a != b
        ),
        "location": tuple(Scene(((name, 1, None),), place) for name in OBJECTS for place in PLACES),
        "plain": tuple(Scene(((name, 1, None),)) for name in OBJECTS),
    }[task]


def sample_scene(rng: np.random.Generator, task: str | None = None) -> Scene:
    """Draw a scene of `task`; of a task drawn by its difficulty when `task` is None."""
    if task is None:
        task = TASKS[int(rng.choice(len(TASKS), p=(0.22, 0.22, 0.28, 0.2, 0.08)))]
    scenes = _scenes_of(task)
    return scenes[int(rng.integers(len(scenes)))]


def near_miss(scene: Scene, rng: np.random.Generator) -> Scene:
    """Draw a scene of the same task that differs from `scene` in one thing.

    Another colour, another number, another place, one of two objects exchanged, or, where the
    object is all there is, another object.
    """

    def other(choices: Sequence[str], *taken: str | None) -> str:
        left = [choice for choice in choices if choice not in taken]
        return left[int(rng.integers(len(left)))]

    (name, count, colour), *second = scene.objects
    if scene.task == "colour":
        return Scene(((name, 1, other(tuple(COLOURS), colour)),))
    if scene.task == "count":
        return Scene(((name, NUMBERS[other(tuple(NUMBERS), _NUMBER_WORDS[count])], None),))
    if scene.task == "location":
        return Scene(scene.objects, other(tuple(PLACES), scene.background))
    if scene.task == "plain":
        return Scene(((other(OBJECTS, name), 1, None),))
    pair = [name, second[0][0]]
    pair[int(rng.integers(2))] = other(OBJECTS, *pair)
    return Scene(((pair[0], 1, None), (pair[1], 1, None)))


def read_prompts(path: Path = PROMPTS_PATH) -> list[tuple[str, str]]:
    """Return (prompt, category) of every row of prompts.csv."""
    with path.open(newline="") as file:
        return [(row["prompt"], row["category"]) for row in csv.DictReader(file)]


def render(
    scene: Scene, rng: np.random.Generator, styles: Sequence[str] = BASE_STYLES
) -> NDArray[np.uint8]:
    """Draw `scene` in one of `styles`, chosen by `rng` among those which draw all its objects.

    Args:
        scene: what to show; at most five drawings in total, none for the bare place.
        rng: the only source of chance (style, places, sizes, paper).
        styles: names of drawing styles, see `world.STYLES`.

    Returns:
        The picture, uint8 [64, 64, 3], sRGB.

    Raises:
        ValueError: none of `styles` draws all the objects, or there are more than five drawings.
    """
    atlas = sprites.load()
    able = [s for s in styles if all((s, name) in atlas for name, _, _ in scene.objects)]
    if not able:
        raise ValueError(f"no style of {tuple(styles)} draws every object of {caption(scene)!r}")
    style = able[int(rng.integers(len(able)))]
    drawings = [(name, colour) for name, count, colour in scene.objects for _ in range(count)]
    if len(drawings) not in _LAYOUTS:
        raise ValueError(f"a scene holds at most 5 drawings, not {len(drawings)}")
    centres, (smallest, largest), jitter = _LAYOUTS[len(drawings)]
    canvas = backgrounds.draw(scene.background, rng)
    size = int(rng.integers(smallest, largest + 1))
    if scene.background is not None:
        size -= 5  # leave room to see the place
    # Which of two objects stands left is not part of the prompt.
    order = rng.permutation(len(drawings))
    for centre, index in zip(centres, order, strict=True):
        x, y = (c + int(rng.integers(-jitter, jitter + 1)) for c in centre)
        if scene.background is not None:
            y += 5  # stand on the ground
        own = size - int(rng.integers(0, 2))
        _paste(canvas, _resized(style, *drawings[int(index)], own), x, y)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _phrase(name: str, count: int, colour: str | None) -> str:
    if count > 1:
        return f"{_NUMBER_WORDS[count]} {PLURALS[name]}"
    words = name if colour is None else f"{colour} {name}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _sensible(scene: Scene) -> frozenset[Scene]:
    return _scene_set(scene.task)


@lru_cache(maxsize=len(TASKS))
def _scenes_of(task: str) -> tuple[Scene, ...]:
    return all_scenes(task)


@lru_cache(maxsize=len(TASKS))
def _scene_set(task: str) -> frozenset[Scene]:
    return frozenset(all_scenes(task))


@lru_cache(maxsize=20_000)
def _resized(style: str, name: str, colour: str | None, size: int) -> NDArray[np.float32]:
    """Return a sprite as premultiplied float32 [size, size, 4] in 0..255."""
    sprite = sprites.load()[style, name]
    if colour is not None:
        sprite = recolour(sprite, COLOURS[colour])
    # Premultiplied, so that transparent pixels do not bleed their colour into the outline.
    image = Image.fromarray(sprite).convert("RGBa")
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32)


def recolour(sprite: NDArray[np.uint8], paint: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return `sprite` (RGBA [h, w, 4]) painted in `paint`, its shading and dark lines kept."""
    rgb = sprite[..., :3].astype(np.float32) / 255
    visible = sprite[..., 3] > 128
    light = rgb @ np.array([0.35, 0.5, 0.15], dtype=np.float32)
    # A dark drawing and a pale one shall both end up in the paint's own lightness.
    low, middle, high = np.quantile(light[visible], (0.02, 0.5, 0.98))
    shade = np.where(
        light < middle,
        0.5 * (light - low) / max(middle - low, 1e-3),
        0.5 + 0.5 * (light - middle) / max(high - middle, 0.15),
    )
    shade = np.clip(shade, 0, 1)[..., None]
    base = np.array(paint, dtype=np.float32) / 255
    dark, pale = base * 0.35, base + (1 - base) * 0.5
    ramp = np.where(
        shade < 0.5, dark + (base - dark) * shade * 2, base + (pale - base) * (shade * 2 - 1)
    )
    painted = sprite.copy()
    painted[..., :3] = np.clip(ramp * 255 + 0.5, 0, 255).astype(np.uint8)
    return painted


def _paste(canvas: NDArray[np.float32], sprite: NDArray[np.float32], x: int, y: int) -> None:
    """Lay a premultiplied sprite over `canvas`, centred at (x, y) but moved inside the picture."""
    size = sprite.shape[0]
    left = min(max(x - size // 2, 0), IMAGE_SIZE - size)
    top = min(max(y - size // 2, 0), IMAGE_SIZE - size)
    region = canvas[top : top + size, left : left + size]
    region *= 1 - sprite[..., 3:] / 255
    region += sprite[..., :3]
