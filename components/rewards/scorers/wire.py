"""What goes over the wire between a run and a reward service: JSON, with pictures as PNG in base64.

    POST /score   {"prompts": ["a fox"], "images": ["iVBORw0..."]}   ->  {"scores": [1.25]}
    GET /health   {"scorer": "model", "version": "3f2a...", "ready": true}

PNG keeps every byte of a picture, and JSON every bit of a float32: what is scored far away is what
would have been scored here.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from components.contracts.errors import DataError

MAX_IMAGES = 256
"""Of one request."""
MAX_PIXELS = 64 * 2**20
"""Of one request, all its pictures together: 64 of 1024 x 1024. Known before one is unpacked."""
MAX_BODY = 256 * 2**20
"""Bytes of one request, packed."""
MAX_PROMPT = 10_000
"""Characters of one prompt."""


def encode_images(images: UInt8[Tensor, "b 3 h w"]) -> list[str]:
    """Each picture as PNG in base64, packed fast rather than small."""
    encoded = []
    for image in images.permute(0, 2, 3, 1).contiguous().cpu().numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG", compress_level=1)
        encoded.append(base64.b64encode(buffer.getvalue()).decode("ascii"))
    return encoded


def decode_images(encoded: Sequence[str]) -> UInt8[Tensor, "b 3 h w"]:
    """The pictures of a request.

    Raises:
        DataError: too many or too large, not base64, not PNG, not RGB, or of several sizes. Sizes
            are read off the head of each file, before anything is unpacked.
    """
    if len(encoded) > MAX_IMAGES:
        raise DataError(f"{len(encoded)} images", allowed=f"at most {MAX_IMAGES} in one request")
    if not encoded:
        return torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
    pictures, sizes = [], set()
    for number, text in enumerate(encoded):
        picture = _opened(text, f"image {number}")
        sizes.add(picture.size)
        if len(sizes) > 1:
            raise DataError(
                f"images of {' and '.join(f'{w} x {h}' for w, h in sorted(sizes))} pixels",
                allowed="one size in one request",
            )
        pictures.append(picture)
    pixels = len(encoded) * picture.width * picture.height
    if pixels > MAX_PIXELS:
        raise DataError(f"{pixels} pixels", allowed=f"at most {MAX_PIXELS} in one request")
    unpacked = [_unpacked(picture, f"image {n}") for n, picture in enumerate(pictures)]
    return torch.stack(unpacked)


def _opened(text: str, place: str) -> Image.Image:
    try:
        content = base64.b64decode(text, validate=True)
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
    except Exception as error:  # damaged bytes make the decoder raise nearly anything
        raise DataError(f"is no PNG in base64 ({error})", place=place) from None
    if picture.mode != "RGB":
        raise DataError(f"has the mode {picture.mode}", place=place, allowed="RGB, 8 bits each")
    return picture


def _unpacked(picture: Image.Image, place: str) -> UInt8[Tensor, "3 h w"]:
    try:
        pixels = numpy.asarray(picture)
    except Exception as error:  # as above
        raise DataError(f"does not unpack ({error})", place=place) from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()
