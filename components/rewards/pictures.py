"""Pictures on their way into a model: their range checked, resized, cropped and normalised.

All on tensors and on the device, without PIL and without a disk. Bytes are rounded where Pillow
rounds, so that a picture gets the features that the model's own image processor would give it;
floats are not rounded, so that gradients flow to the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from components.contracts.errors import DataError, ModelError

RESAMPLING = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a filter, as image processor configs hold it, and torch's name."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of the red, green and blue of CLIP's training pictures; many towers took it over."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""As `CLIP_MEAN`."""
Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
"""Bytes, or floats in [0, 1]."""
RANGE_TOLERANCE = 1e-3
"""How far a float may lie outside [0, 1]: a decoder's last rounding, not another range."""


def check_images(images: Tensor, what: str) -> None:
    """Refuse what is no batch of pictures in one of the two ranges.

    Raises:
        DataError: another shape or type, a value that is not finite, or floats in another range
            such as [-1, 1] or [0, 255].
    """
    allowed = "uint8, or float in [0, 1], of shape [b, 3, h, w]"
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"{what}: images of shape {list(images.shape)}", allowed=allowed)
    if images.dtype == torch.uint8 or not images.numel():
        return
    if not images.is_floating_point():
        raise DataError(f"{what}: images of type {images.dtype}", allowed=allowed)
    low, high = (float(value) for value in images.detach().aminmax())
    # Written so that a NaN fails as well.
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise DataError(f"{what}: image values from {low:.4g} to {high:.4g}", allowed=allowed)


def as_float(images: Images) -> Float[Tensor, "b 3 h w"]:
    """Values in [0, 1], with the graph of floats; float32, but for float64 that came as such."""
    if images.dtype == torch.float64:
        return images
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def as_bytes(images: Images) -> UInt8[Tensor, "b 3 h w"]:
    """Values in 0..255, rounded, without a graph."""
    if images.dtype == torch.uint8:
        return images
    return (images.detach() * 255).round().clamp(0, 255).to(torch.uint8)


def resized(images: Images, height: int, width: int, filter: str) -> Images:
    """Every picture at `height` x `width`, by a filter of `RESAMPLING`, antialiased.

    Bytes stay bytes and are rounded where Pillow rounds, after its pass along the width and again
    after that along the height; of noise made smaller, about one byte in a thousand is then one
    off, none where the size is halved. Floats keep their graph and are cut to [0, 1].
    """
    if images.shape[-2:] == (height, width):
        return images
    antialias = filter != "nearest-exact"
    if images.dtype != torch.uint8:
        size, pixels = (height, width), as_float(images)
        return F.interpolate(pixels, size=size, mode=filter, antialias=antialias).clamp(0, 1)
    pixels = images.float()
    for size in ((images.shape[-2], width), (height, width)):
        if pixels.shape[-2:] != size:
            pixels = F.interpolate(pixels, size=size, mode=filter, antialias=antialias)
            # Half a step goes up in Pillow, and not to the even neighbour.
            pixels = (pixels + 0.5).floor().clamp(0, 255)
    return pixels.to(torch.uint8)


def normalised(
    images: Images, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD
) -> Float[Tensor, "b 3 h w"]:
    """As floats, with the mean of each channel taken off, then divided by its deviation."""
    pixels = as_float(images)
    centre, spread = (
        torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (mean, std)
    )
    return (pixels - centre) / spread


@dataclass(frozen=True)
class Preprocessing:
    """What an image processor does, as it stands in `preprocessor_config.json`."""

    size: int
    """Pixels of the shortest edge after resizing."""
    crop: int
    """Side of the central square that is cut out afterwards."""
    filter: str
    """A name of `RESAMPLING`."""
    mean: tuple[float, ...]
    """Of each channel, taken off."""
    std: tuple[float, ...]
    """Of each channel, divided by."""
    even_crop: bool = False
    """Whether half a pixel off centre goes to the even side, as in torchvision's transforms, and
    not to the upper left, as in transformers' image processors."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], source: str) -> Preprocessing:
        """Read an image processor's config.

        Raises:
            ModelError: a key is missing or has a value that is not known here.
        """
        try:
            return cls(
                size=_edge(config.get("size", {})),
                crop=_edge(config.get("crop_size", config.get("size", {}))),
                filter=RESAMPLING[int(config.get("resample", 3))],
                mean=tuple(map(float, config["image_mean"])),
                std=tuple(map(float, config["image_std"])),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(
                f"image processor: cannot use {error}",
                file=source,
                allowed="size, image_mean, image_std, resample 0, 2 or 3",
            ) from None

    def resize(self, images: Images) -> Images:
        """Shortest edge to `size`, then the centre; bytes stay bytes, floats keep their graph."""
        height, width = images.shape[-2:]
        shortest = min(height, width)
        # The longer edge is cut down, not rounded, as torchvision and transformers do.
        target = (self.size * height // shortest, self.size * width // shortest)
        return self._centred(resized(images, *target, self.filter))

    def normalise(self, images: Images) -> Float[Tensor, "b 3 s s"]:
        """To the range that the image tower was trained on."""
        return normalised(images, self.mean, self.std)

    def __call__(self, images: Images) -> Float[Tensor, "b 3 s s"]:
        """Resized, cropped and normalised."""
        return self.normalise(self.resize(images))

    def _centred(self, images: Tensor) -> Tensor:
        offsets = ((edge - self.crop) / 2 for edge in images.shape[-2:])
        top, left = (round(offset) if self.even_crop else int(offset) for offset in offsets)
        return images[..., top : top + self.crop, left : left + self.crop]


def in_equal_parts(
    count: int, size: int, compute: Callable[[Tensor], Float[Tensor, " n *rest"]]
) -> Float[Tensor, " b *rest"]:
    """`compute` on the rows 0..count-1, `size` at a time; the last part is filled up with its last
    row.

    Every pass then has the same number of rows, so that a matrix product never takes another code
    path for a short batch: a score does not depend on how many images came along with its own.
    """
    scores = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp_max(count - 1)
        scores.append(compute(rows)[: count - start])
    return torch.cat(scores) if scores else torch.zeros(0)


def _edge(size: Any) -> int:
    """One length in pixels from the forms that image processor configs have had."""
    if isinstance(size, int):
        return size
    for key in ("shortest_edge", "height"):
        if key in size:
            return int(size[key])
    raise KeyError("size")
