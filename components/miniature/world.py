"""The vocabulary of the miniature world: which objects, colours, counts and places exist.

Plain constants and no third-party import, so that every other module of the room can read them.
"""

from __future__ import annotations

from typing import Final

IMAGE_SIZE: Final = 64
"""Side of a scene in pixels."""

TASKS: Final = ("colour", "count", "composition", "location", "plain")
"""The kinds of prompt: the four of DPOK and the bare object."""

PLURALS: Final[dict[str, str]] = {
    "rabbit": "rabbits",
    "wolf": "wolves",
    "cat": "cats",
    "dog": "dogs",
    "lion": "lions",
    "panda": "pandas",
    "pig": "pigs",
    "frog": "frogs",
    "bear": "bears",
    "fox": "foxes",
    "monkey": "monkeys",
    "koala": "koalas",
    "cow": "cows",
    "mouse": "mice",
    "penguin": "penguins",
    "fish": "fish",
    "octopus": "octopuses",
    "turtle": "turtles",
    "whale": "whales",
    "snail": "snails",
    "car": "cars",
    "bus": "buses",
    "rocket": "rockets",
    "tree": "trees",
    "cactus": "cacti",
    "mushroom": "mushrooms",
    "apple": "apples",
    "banana": "bananas",
    "strawberry": "strawberries",
    "sunflower": "sunflowers",
    "guitar": "guitars",
    "house": "houses",
}
"""Singular and plural of every object; the order is the order of the judge's outputs."""

OBJECTS: Final = tuple(PLURALS)

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (222, 36, 36),
    "orange": (250, 134, 18),
    "yellow": (248, 214, 24),
    "green": (44, 168, 60),
    "blue": (36, 92, 226),
    "purple": (138, 56, 196),
    "pink": (250, 120, 186),
    "brown": (134, 82, 44),
}
"""Name and base colour (sRGB) of every paint."""

NUMBERS: Final[dict[str, int]] = {"two": 2, "three": 3, "four": 4, "five": 5}
"""Number words of the count task."""

PLACES: Final[dict[str, str]] = {
    "moon": "on the moon",
    "sea": "in the sea",
    "desert": "in the desert",
    "forest": "in the forest",
    "snow": "in the snow",
    "city": "in the city",
    "meadow": "in the meadow",
}
"""Background and the phrase that asks for it."""

STYLES: Final = ("noto", "twemoji", "fluent", "fxemoji")
"""The artists' drawings, in the order of the atlas rows."""

BASE_STYLES: Final = ("noto", "twemoji")
"""The styles which the base model and CLIP are trained on."""

HELD_OUT_STYLE: Final = "fluent"
"""The complete drawing style that autoencoder, base model and CLIP never saw."""
