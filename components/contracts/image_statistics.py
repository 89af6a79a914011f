"""What can be measured of a picture without a model: how bright, how colourful, how alike.

The drift guards of finetuning, the report of evaluation and the audit of a reward measure with the
same functions, so that a number in a curve and a number in a report mean the same. Pictures are
uint8 RGB.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

# Rec. 709 luma: how much each of red, green and blue adds to the brightness that an eye sees.
_LUMA = (0.2126, 0.7152, 0.0722)


def luma(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """How bright each pixel is, in [0, 1]: ITU-R BT.709's weights on the gamma-coded values."""
    weights = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
    return (_unit(images) * weights).sum(dim=1)


def brightness(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean luma of each picture; 0 black, 1 white."""
    return luma(images).mean(dim=(1, 2))


def contrast(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Standard deviation of each picture's luma; 0 one grey, 0.5 half black and half white."""
    return luma(images).flatten(start_dim=1).std(dim=1, correction=0)


def saturation(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean HSV saturation of each picture; 0 grey, 1 pure colour.

    The saturation of a pixel is (max - min) / max of its channels, and 0 where it is black.
    """
    pixels = _unit(images)
    highest = pixels.amax(dim=1)
    chroma = highest - pixels.amin(dim=1)
    # The smallest positive value is 1/255, so the clamp changes nothing but 0/0.
    return (chroma / highest.clamp_min(1 / 510)).mean(dim=(1, 2))


def warmth(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Mean of red less blue of each picture; -1 blue, 0 neutral, 1 red."""
    pixels = _unit(images)
    return (pixels[:, 0] - pixels[:, 2]).mean(dim=(1, 2))


def diversity(images: UInt8[Tensor, "b 3 h w"], groups: Int[Tensor, " b"]) -> float:
    """Mean pairwise distance among the pictures of a group, averaged over groups; 0 all alike.

    The distance of two pictures is the root of their mean squared difference over channels and
    pixels, so black against white is 1. `groups` says by any whole number which pictures answer the
    same prompt; a group of one picture has no pair and does not count.

    Raises:
        ValueError: no group has two pictures.
    """
    means = []
    for group in groups.unique():
        pixels = _unit(images[groups == group]).flatten(start_dim=1)
        if len(pixels) > 1:
            # pdist sums the squares under its root; dividing by the root of the size makes it RMS.
            means.append(torch.pdist(pixels).mean() / pixels.shape[1] ** 0.5)
    if not means:
        raise ValueError("diversity needs a group with at least two pictures")
    return float(torch.stack(means).mean())


def _unit(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return images.float() / 255
