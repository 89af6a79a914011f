"""What can be measured of a picture without a model: how bright, how colourful, how alike.

The drift guards of finetuning, the report of evaluation, the audit of a reward and the scorer
`colour` measure with the same functions, so that a number in a curve and a number in a report mean
the same. Pictures are RGB: uint8, or floats in [0, 1], through which gradients flow.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.linalg import vector_norm

from components.contracts.errors import DataError

Images = UInt8[Tensor, "b 3 h w"] | Float[Tensor, "b 3 h w"]
# Rec. 709 luma: how much each of red, green and blue adds to the brightness that an eye sees.
_LUMA = (0.2126, 0.7152, 0.0722)


def luma(images: Images) -> Float[Tensor, "b h w"]:
    """How bright each pixel is, in [0, 1]: ITU-R BT.709's weights on the gamma-coded values."""
    pixels = _unit(images)
    return (pixels * pixels.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1)


def brightness(images: Images) -> Float[Tensor, " b"]:
    """Mean luma of each picture; 0 black, 1 white."""
    return luma(images).mean(dim=(1, 2))


def saturation(images: Images) -> Float[Tensor, " b"]:
    """Mean HSV saturation of each picture; 0 grey, 1 pure colour.

    The saturation of a pixel is (max - min) / max of its channels, and 0 where it is black. It
    falls to 0 below half a step of a byte, where floats can lie and bytes cannot.
    """
    pixels = _unit(images)
    highest = pixels.amax(dim=1)
    chroma = highest - pixels.amin(dim=1)
    # The smallest positive value is 1/255, so the clamp changes nothing but 0/0.
    return (chroma / highest.clamp_min(1 / 510)).mean(dim=(1, 2))


def warmth(images: Images) -> Float[Tensor, " b"]:
    """Mean of red less blue of each picture; -1 blue, 0 neutral, 1 red."""
    pixels = _unit(images)
    return (pixels[:, 0] - pixels[:, 2]).mean(dim=(1, 2))


def contrast(images: Images) -> Float[Tensor, " b"]:
    """Standard deviation of each picture's luma; 0 plain, 1/2 half black and half white.

    Peli, Contrast in complex images (1990): the RMS contrast.
    """
    return _spread(luma(images))


def sharpness(images: Images) -> Float[Tensor, " b"]:
    """Standard deviation of the Laplacian of each picture's luma; 0 plain, 4 a chessboard of
    pixels.

    The Laplacian is the sum of the four neighbours less four times the pixel, of the pixels that
    have four. Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy (2000), take the
    square of this number.

    Raises:
        DataError: a picture has no pixel with four neighbours.
    """
    if min(images.shape[-2:]) < 3:
        raise DataError(
            f"sharpness of images of shape {list(images.shape)}", allowed="3 x 3 pixels or more"
        )
    grey = luma(images)
    beside = grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    above = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    return _spread(beside + above - 4 * grey[:, 1:-1, 1:-1])


def colourfulness(images: Images) -> Float[Tensor, " b"]:
    """How colourful people find each picture; 0 grey, and 255 times it is the number of the paper,
    where 33 is moderately and 109 extremely colourful.

    Hasler and Suesstrunk, Measuring colourfulness in natural images (2003), M(3): with
    rg = R - G and yb = (R + G) / 2 - B,

        sqrt(std(rg)² + std(yb)²) + 0.3 sqrt(mean(rg)² + mean(yb)²)
    """
    red, green, blue = _unit(images).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1)
    spreads = torch.stack([_spread(opponents[:, axis]) for axis in (0, 1)], dim=1)
    means = opponents.mean(dim=(2, 3))
    return vector_norm(spreads, dim=1) + 0.3 * vector_norm(means, dim=1)


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


def _unit(images: Images) -> Float[Tensor, "b 3 h w"]:
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _spread(values: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Standard deviation of each row; its gradient where nothing varies is 0 and not a NaN."""
    centred = values - values.mean(dim=(1, 2), keepdim=True)
    return vector_norm(centred, dim=(1, 2)) / centred[0].numel() ** 0.5
