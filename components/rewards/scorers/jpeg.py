"""How well a picture compresses: `{name: jpeg, prefer: small}`.

The two rewards of DDPO (2305.13301), section 5.1: the size of the picture as a JPEG of quality 95
is a reward that no text describes and everybody can see.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes
from components.rewards.scorers.settings import JpegScorerSettings


class JpegScorer:
    """Size of the JPEG in kB (1000 bytes), or its negative; encoded in memory."""

    differentiable = False

    def __init__(self, settings: JpegScorerSettings, compute: ComputeSettings) -> None:
        self._sign = 1.0 if settings.prefer == "large" else -1.0
        self._quality = settings.quality
        self._device = find_device(compute)

    @classmethod
    def build(
        cls, settings: JpegScorerSettings, compute: ComputeSettings, root: Path
    ) -> JpegScorer:
        """There is nothing to load."""
        return cls(settings, compute)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """kB where `prefer` is large, and their negative where it is small; the prompts say
        nothing.

        The size depends on the library that encodes, by a few bytes, and on the number of pixels:
        compare pictures of one size.
        """
        pictures = as_bytes(images).permute(0, 2, 3, 1).contiguous().cpu()
        sizes = [self._sign * jpeg_bytes(picture, self._quality) / 1000 for picture in pictures]
        return torch.tensor(sizes, device=self._device)


def jpeg_bytes(picture: UInt8[Tensor, "h w 3"], quality: int) -> int:
    """Number of bytes of one picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, "JPEG", quality=quality)
    return buffer.tell()
