"""A template becomes one self-contained page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from components.pages.numbers import FILTERS

STYLE = Path(__file__).with_name("style.css")
MAX_SIDE = 160
"""Width of an embedded picture; larger ones are reduced, since a page must stay light."""


def render_page(template: Path, **values: Any) -> str:
    """The page as HTML; the same arguments give the same text.

    The template has the filters of `numbers.py` and, as `style`, the style sheet of all pages. A
    name that it uses and nobody gave is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    style = Markup(STYLE.read_text(encoding="utf-8").rstrip())  # our own file, not input
    return environment.get_template(template.name).render(style=style, **values)


def shown(image: UInt8[Tensor, "3 h w"], width: int, height: int | None = None) -> Image.Image:
    """One image at the size at which it is shown; a square without a height."""
    picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    return picture.resize((width, height or width), Image.Resampling.LANCZOS)


def data_uri(image: UInt8[Tensor, "3 h w"]) -> str:
    """One image as a PNG inside the page."""
    height, width = image.shape[-2:]
    scale = min(1.0, MAX_SIDE / width)
    buffer = io.BytesIO()
    small = shown(image, round(width * scale), round(height * scale))
    small.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
