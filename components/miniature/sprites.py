"""The sprites: one drawing per object and artist, kept as one PNG atlas with a JSON index.

`python -m components.miniature.sprites --source DIR` rebuilds the atlas from unpacked packages.
DIR holds one folder per artist (see `FOLDERS`), each with the `icons.json` of its Iconify package.
"""

from __future__ import annotations

import argparse
import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.miniature.world import OBJECTS, STYLES

SPRITE_SIZE: Final = 48
"""Side of a sprite in pixels."""

ATLAS_DIR: Final = Path(__file__).parent / "sprites"

FOLDERS: Final[dict[str, str]] = {
    "noto": "noto",
    "twemoji": "twemoji",
    "fluent": "fluent-emoji-flat",
    "fxemoji": "fxemoji",
}
"""Style and the folder of its package below the source folder."""

_FACES = ("rabbit", "cat", "dog", "pig", "monkey", "cow", "mouse")
_NAMES: Final[dict[str, str]] = {
    **{name: f"{name}-face" for name in _FACES},
    "fish": "tropical-fish",
    "whale": "spouting-whale",
    "car": "automobile",
    "bus": "oncoming-bus",
    "tree": "deciduous-tree",
    "apple": "red-apple",
}
_FXEMOJI_NAMES: Final[dict[str, str]] = {
    "wolf": "wolfface",
    "panda": "pandaface",
    "monkey": "monkeyface",
    "cow": "cowface",
    "fish": "tropicalfish",
    "whale": "spurtingwhale",
    "car": "automobile",
    "bus": "oncomingbus",
    "tree": "deciduoustree",
    "apple": "redapple",
    "house": "housebuilding",
}


def icon_name(style: str, name: str) -> str:
    """Return how the package of `style` calls the drawing of the object `name`."""
    return (_FXEMOJI_NAMES if style == "fxemoji" else _NAMES).get(name, name)


@lru_cache(maxsize=1)
def load() -> dict[tuple[str, str], NDArray[np.uint8]]:
    """Read the atlas: (style, object) to an RGBA sprite, uint8 [48, 48, 4], not premultiplied.

    A style that lacks a drawing of an object has no entry for it.
    """
    index = json.loads((ATLAS_DIR / "atlas.json").read_text())
    atlas = np.asarray(Image.open(ATLAS_DIR / "atlas.png").convert("RGBA"))
    size = int(index["size"])
    return {
        (entry["style"], entry["object"]): atlas[
            entry["y"] : entry["y"] + size, entry["x"] : entry["x"] + size
        ]
        for entry in index["sprites"]
    }


def objects_of(styles: tuple[str, ...]) -> tuple[str, ...]:
    """Return the objects which at least one of `styles` draws, in the order of `OBJECTS`."""
    drawn = {name for style, name in load() if style in styles}
    return tuple(name for name in OBJECTS if name in drawn)


def build(source: Path, target: Path = ATLAS_DIR) -> int:
    """Render every drawing found below `source`, write atlas.png and atlas.json, return how many.

    Raises:
        FileNotFoundError: the package of a style is not below `source`.
        KeyError: a complete style (any but fxemoji) lacks a drawing.
    """
    atlas = Image.new("RGBA", (SPRITE_SIZE * len(OBJECTS), SPRITE_SIZE * len(STYLES)))
    entries = []
    for row, style in enumerate(STYLES):
        icons = json.loads((source / FOLDERS[style] / "icons.json").read_text())
        for column, name in enumerate(OBJECTS):
            icon = icons["icons"].get(icon_name(style, name))
            if icon is None:
                if style == "fxemoji":
                    continue
                raise KeyError(f"{FOLDERS[style]} has no drawing {icon_name(style, name)!r}")
            x, y = column * SPRITE_SIZE, row * SPRITE_SIZE
            atlas.paste(_render_icon(icon, icons), (x, y))
            entries.append(
                {"style": style, "object": name, "icon": icon_name(style, name), "x": x, "y": y}
            )
    target.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    atlas.save(buffer, format="PNG", optimize=True)
    index = json.dumps({"size": SPRITE_SIZE, "sprites": entries}, indent=1) + "\n"
    for name, data in (("atlas.png", buffer.getvalue()), ("atlas.json", index.encode())):
        temporary = target / f".{name}.part"
        temporary.write_bytes(data)
        temporary.replace(target / name)
    return len(entries)


def _render_icon(icon: dict[str, object], icons: dict[str, object]) -> Image.Image:
    # Imported here: only this rebuild needs the renderer, readers of the atlas do not.
    import resvg_py

    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{icon["body"]}</svg>'
    )
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=SPRITE_SIZE * 4, height=SPRITE_SIZE * 4)
    )
    large = Image.open(io.BytesIO(png)).convert("RGBA")
    # Crop to the drawing, so that every artist's object has the same size in a scene.
    box = large.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox()
    large = large.crop(box)
    side = max(large.size)
    square = Image.new("RGBA", (side, side))
    square.paste(large, ((side - large.width) // 2, (side - large.height) // 2))
    small = square.convert("RGBa").resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
    return small.convert("RGBA")


def main() -> None:
    """Rebuild the atlas from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder of unpacked packages")
    print(f"{build(parser.parse_args().source)} sprites written to {ATLAS_DIR}")


if __name__ == "__main__":
    main()
