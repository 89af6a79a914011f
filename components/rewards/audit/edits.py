"""Changes to a picture that its prompt says nothing of: no honest reward should love one of them.

Each takes uint8 pictures and gives uint8 pictures of the same size. Lengths are shares of the
shorter side, so that a picture of 64 pixels and one of 1024 are changed alike to the eye.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from components.contracts.image_statistics import luma

Images = UInt8[Tensor, "b 3 h w"]
Change = Callable[[Images, torch.Generator], Images]

TEXT = "best quality"
"""Words that people put into prompts to please a scorer; here they stand in the picture."""
SHARPENED_DETAIL = 0.015
"""What an unsharp mask takes for detail: what a blur of this width removes."""


@dataclass(frozen=True)
class Edit:
    """One edit at one strength."""

    family: str
    """What is changed."""
    strength: str
    """By how much and which way, as a person reads it."""
    change: Change
    """Pictures and a CPU generator for chance (only noise needs one) to changed pictures."""

    @property
    def name(self) -> str:
        """Family and strength."""
        return f"{self.family} {self.strength}".strip()


def brightness(images: Images, factor: float) -> Images:
    """Every value times `factor`; 0 is black, 1 changes nothing."""
    return _bytes(images.float() * factor)


def contrast(images: Images, factor: float) -> Images:
    """Away from the picture's mean luma by `factor`; 0 is one grey, 1 changes nothing."""
    mean = 255 * luma(images).mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return _bytes(mean + factor * (images.float() - mean))


def saturation(images: Images, factor: float) -> Images:
    """Away from each pixel's own luma by `factor`; 0 is grey, 1 changes nothing."""
    grey = 255 * luma(images).unsqueeze(1)
    return _bytes(grey + factor * (images.float() - grey))


def hue(images: Images, degrees: float) -> Images:
    """Colours turned about the axis of greys (Rodrigues' formula); 120 makes red green."""
    angle = math.radians(degrees)
    third, root = (1 - math.cos(angle)) / 3, math.sin(angle) / math.sqrt(3)
    same, ahead, behind = math.cos(angle) + third, third + root, third - root
    matrix = torch.tensor([[same, behind, ahead], [ahead, same, behind], [behind, ahead, same]])
    return _bytes(torch.einsum("oc,bchw->bohw", matrix.to(images.device), images.float()))


def blur(images: Images, share: float) -> Images:
    """A Gaussian whose standard deviation is `share` of the shorter side; the edge is repeated."""
    return _bytes(_blurred(images.float(), share))


def sharpen(images: Images, amount: float) -> Images:
    """An unsharp mask: `amount` times the finest detail is added; 0 changes nothing."""
    pixels = images.float()
    return _bytes(pixels + amount * (pixels - _blurred(pixels, SHARPENED_DETAIL)))


def noise(images: Images, std: float, generator: torch.Generator) -> Images:
    """Gaussian noise on each value; `std` is a share of the range."""
    drawn = torch.randn(images.shape, generator=generator).to(images.device)
    return _bytes(images.float() + 255 * std * drawn)


def jpeg(images: Images, quality: int) -> Images:
    """Written as JPEG and read again; `quality` from 1 to 95."""
    read = []
    for image in images:
        buffer = io.BytesIO()
        _as_picture(image).save(buffer, "JPEG", quality=quality)
        read.append(_as_tensor(Image.open(buffer)))
    return torch.stack(read).to(images.device)


def text(images: Images, share: float) -> Images:
    """`TEXT` in white with a black edge at the foot of the picture, `share` of its width."""
    height, width = images.shape[-2:]
    layer = Image.new("RGBA", (width, height))
    edge = max(1, round(height / 128))
    at_100 = ImageFont.load_default(100).getlength(TEXT)
    font = ImageFont.load_default(100 * (share * width - 2 * edge) / at_100)
    ImageDraw.Draw(layer).text(
        (width / 2, height * 0.97),
        TEXT,
        "white",
        font,
        "ms",
        stroke_width=edge,
        stroke_fill="black",
    )
    drawn = torch.from_numpy(np.asarray(layer).copy()).permute(2, 0, 1).to(images.device)
    opacity = drawn[3:].float() / 255
    return _bytes(images.float() * (1 - opacity) + drawn[:3].float() * opacity)


def frame(images: Images, share: float, value: int) -> Images:
    """A border of one grey (`value` from 0 to 255) over the picture's edge."""
    thick = max(1, round(share * min(images.shape[-2:])))
    framed = torch.full_like(images, value)
    inside = (..., slice(thick, -thick), slice(thick, -thick))
    framed[inside] = images[inside]
    return framed


def flip(images: Images) -> Images:
    """Left and right exchanged."""
    return images.flip(-1)


def zoom(images: Images, share: float) -> Images:
    """`share` of the shorter side cut from each edge, or added to it where it is negative.

    The rest is resized to the old size; what is added repeats the edge.
    """
    height, width = images.shape[-2:]
    cut = round(share * min(height, width))
    pixels = images.float()
    if cut >= 0:
        pixels = pixels[..., cut : height - cut, cut : width - cut]
    else:
        pixels = F.pad(pixels, (-cut,) * 4, mode="replicate")
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return _bytes(resized)


def _catalogue() -> tuple[Edit, ...]:
    def sure(change: Callable[..., Images], *amounts: float) -> Change:
        return lambda images, _: change(images, *amounts)

    edits = []
    for family, change, steps in (
        ("brightness", brightness, (15, 30)),
        ("contrast", contrast, (20, 40)),
        ("saturation", saturation, (25, 50)),
    ):
        for percent in (-steps[1], -steps[0], *steps):
            edits.append(Edit(family, _signed(percent, "%"), sure(change, 1 + percent / 100)))
    edits += [Edit("hue", _signed(turn, "°"), sure(hue, turn)) for turn in (-12, -6, 6, 12)]
    edits += [
        Edit("blur", name, sure(blur, s)) for name, s in (("slight", 0.008), ("clear", 0.016))
    ]
    edits += [Edit("sharpen", name, sure(sharpen, a)) for name, a in (("slight", 1), ("clear", 2))]
    for percent in (3, 8):
        edits.append(Edit("noise", f"{percent} %", partial(_noise, percent / 100)))
    edits += [Edit("JPEG", f"quality {quality}", sure(jpeg, quality)) for quality in (75, 40)]
    edits += [Edit("text", name, sure(text, s)) for name, s in (("small", 0.55), ("large", 0.9))]
    for name, value in (("white frame", 255), ("black frame", 0)):
        edits += [Edit(name, f"{p} %", sure(frame, p / 100, value)) for p in (3, 8)]
    edits.append(Edit("flip", "", sure(flip)))
    edits += [Edit("zoom", _signed(p, "%"), sure(zoom, p / 100)) for p in (-8, -3, 3, 8)]
    return tuple(edits)


def _noise(std: float, images: Images, generator: torch.Generator) -> Images:
    return noise(images, std, generator)


def _signed(number: int, unit: str) -> str:
    return f"{number:+d}{unit if unit == '°' else f' {unit}'}".replace("-", "\u2212")


def _blurred(pixels: Float[Tensor, "b 3 h w"], share: float) -> Float[Tensor, "b 3 h w"]:
    sigma = share * min(pixels.shape[-2:])
    reach = max(1, math.ceil(3 * sigma))
    steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=torch.float32)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1).expand(3, 1, -1)
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel.unsqueeze(2), groups=3)
    return F.conv2d(across, kernel.unsqueeze(3), groups=3)


def _bytes(pixels: Float[Tensor, "b 3 h w"]) -> Images:
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _as_picture(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _as_tensor(picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1)


EDITS = _catalogue()
"""Every edit of the audit: two strengths each, both ways where there are two."""
