"""The places of the miniature world, drawn with simple shapes and light jitter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from components.miniature.world import IMAGE_SIZE

_SCALE = 3  # drawn larger and averaged down: antialiased edges
_SIDE = IMAGE_SIZE * _SCALE

Colour = tuple[int, int, int]


def draw(place: str | None, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a place, or nearly white paper for None: float32 [64, 64, 3] in 0..255.

    Raises:
        KeyError: `place` is not one of `world.PLACES`.
    """
    if place is None:
        paper = rng.uniform(240, 255) + rng.uniform(-4, 4, 3)
        shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
        return np.broadcast_to(np.clip(paper, 0, 255), shape).astype(np.float32)
    image = Image.new("RGB", (_SIDE, _SIDE))
    _PAINTERS[place](ImageDraw.Draw(image), rng)
    return np.asarray(image.reduce(_SCALE), dtype=np.float32)


def _ground(rng: np.random.Generator, low: float, high: float) -> int:
    return int(rng.uniform(low, high) * _SIDE)


def _sky(pen: ImageDraw.ImageDraw, top: Colour, bottom: Colour, horizon: int) -> None:
    for y in range(0, horizon, _SCALE):
        mix = y / max(horizon, 1)
        colour = tuple(int(a + (b - a) * mix) for a, b in zip(top, bottom, strict=True))
        pen.rectangle((0, y, _SIDE, y + _SCALE), fill=colour)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: Colour) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _moon(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.5, 0.62)
    pen.rectangle((0, 0, _SIDE, _SIDE), fill=(8, 8, 20))
    for _ in range(14):
        x, y = rng.uniform(0, _SIDE), rng.uniform(0, horizon)
        _disc(pen, x, y, rng.uniform(1.2, 2.6), (255, 255, 235))
    pen.ellipse((-_SIDE * 0.5, horizon, _SIDE * 1.5, _SIDE * 2.2), fill=(158, 158, 164))
    for place in (0.1, 0.36, 0.62, 0.9):
        x = (place + rng.uniform(-0.06, 0.06)) * _SIDE
        y = rng.uniform(horizon + 0.16 * _SIDE, _SIDE)
        w = rng.uniform(0.06, 0.12) * _SIDE
        pen.ellipse((x - w, y - w * 0.45, x + w, y + w * 0.45), fill=(108, 108, 116))
        pen.ellipse((x - w, y - w * 0.2, x + w, y + w * 0.45), fill=(128, 128, 136))


def _sea(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.3, 0.42)
    _sky(pen, (150, 210, 250), (220, 240, 252), horizon)
    pen.rectangle((0, horizon, _SIDE, _SIDE), fill=(24, 106, 190))
    for row in range(4):
        y = horizon + (row + 0.6) * (_SIDE - horizon) / 4
        shift = rng.uniform(0, 30)
        for x in np.arange(-30 + shift, _SIDE, 32):
            pen.arc((x, y - 7, x + 18, y + 7), 180, 360, fill=(150, 205, 245), width=4)


def _desert(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.46, 0.56)
    _sky(pen, (120, 196, 238), (250, 226, 180), horizon + 12)
    _disc(pen, rng.uniform(0.1, 0.9) * _SIDE, 0.14 * _SIDE, 0.08 * _SIDE, (255, 240, 130))
    x = rng.uniform(0.1, 0.5) * _SIDE
    pen.rectangle((0, horizon + 14, _SIDE, _SIDE), fill=(226, 178, 96))
    pen.ellipse((x - 110, horizon, x + 90, _SIDE), fill=(236, 194, 116))
    pen.ellipse((x + 20, horizon + 8, x + 230, _SIDE * 1.2), fill=(214, 162, 82))


def _forest(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.66, 0.76)
    pen.rectangle((0, 0, _SIDE, _SIDE), fill=(176, 214, 170))
    for x in np.arange(0.03, 1.05, 0.16) * _SIDE:
        x += rng.uniform(-6, 6)
        top = rng.uniform(-0.06, 0.16) * _SIDE
        pen.rectangle((x - 5, horizon - 20, x + 5, horizon + 4), fill=(92, 62, 40))
        for part, width in ((0.0, 13), (0.3, 19), (0.58, 24)):
            y = top + part * (horizon - 12 - top)
            y2 = y + 0.45 * (horizon - 12 - top)
            pen.polygon(((x, y), (x - width, y2), (x + width, y2)), fill=(22, 92, 50))
    pen.rectangle((0, horizon, _SIDE, _SIDE), fill=(70, 118, 52))


def _snow(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.6, 0.7)
    _sky(pen, (120, 150, 190), (176, 198, 222), horizon + 20)
    x = rng.uniform(0.1, 0.9) * _SIDE
    pen.polygon(
        ((x - 90, horizon + 9), (x, 0.14 * _SIDE), (x + 90, horizon + 9)), fill=(96, 118, 150)
    )
    pen.polygon(
        ((x - 30, 0.3 * _SIDE), (x, 0.14 * _SIDE), (x + 30, 0.3 * _SIDE)), fill=(246, 250, 255)
    )
    pen.ellipse((-_SIDE * 0.4, horizon, _SIDE * 1.4, _SIDE * 1.9), fill=(244, 249, 255))
    for _ in range(26):
        _disc(pen, rng.uniform(0, _SIDE), rng.uniform(0, horizon), 2.6, (255, 255, 255))


def _city(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    street = _ground(rng, 0.78, 0.84)
    _sky(pen, (26, 24, 70), (96, 62, 122), street)
    x = -rng.uniform(0, 20)
    while x < _SIDE:
        width = rng.uniform(26, 40)
        top = rng.uniform(0.08, 0.42) * _SIDE
        pen.rectangle((x, top, x + width - 3, street), fill=(44, 46, 74))
        for wx in np.arange(x + 5, x + width - 10, 9):
            for wy in np.arange(top + 6, street - 8, 12):
                if rng.random() < 0.6:
                    pen.rectangle((wx, wy, wx + 4, wy + 6), fill=(255, 220, 110))
        x += width
    pen.rectangle((0, street, _SIDE, _SIDE), fill=(70, 70, 78))
    for x in np.arange(rng.uniform(-30, 0), _SIDE, 42):
        pen.rectangle((x, street + 16, x + 20, street + 21), fill=(230, 230, 220))


def _meadow(pen: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    horizon = _ground(rng, 0.5, 0.6)
    _sky(pen, (110, 190, 250), (206, 234, 252), horizon + 20)
    x = rng.uniform(0.1, 0.9) * _SIDE
    for dx, r in ((-14, 9), (0, 13), (14, 9)):
        _disc(pen, x + dx, 0.14 * _SIDE, r, (255, 255, 255))
    pen.ellipse((-_SIDE * 0.5, horizon, _SIDE * 1.5, _SIDE * 2.0), fill=(122, 200, 74))
    for _ in range(16):
        fx, fy = rng.uniform(0, _SIDE), rng.uniform(horizon + 24, _SIDE)
        _disc(pen, fx, fy, 3.4, ((255, 255, 255), (255, 226, 60), (250, 140, 190))[rng.integers(3)])


_PAINTERS: Final[dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator], None]]] = {
    "moon": _moon,
    "sea": _sea,
    "desert": _desert,
    "forest": _forest,
    "snow": _snow,
    "city": _city,
    "meadow": _meadow,
}
