"""Weights and pictures that are the same numbers in every program, without a generator of its own.

The golden scores of the published networks were written down by running their authors' programs on
these weights. The numbers come from integers alone (splitmix64 of Steele et al., OOPSLA 2014), so
neither numpy's nor torch's version can change them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def uniform(name: str, shape: Sequence[int]) -> torch.Tensor:
    """float32 in [-1, 1), other numbers for other names."""
    count = int(np.prod(shape))
    state = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
    with np.errstate(over="ignore"):
        z = state + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    values = (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1
    return torch.from_numpy(values.astype(np.float32)).reshape(tuple(shape))


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """One tensor of a sensible size for each name: matrices keep the scale of what they multiply,
    scales of norms are near 1, biases and embeddings small but not zero."""
    made = {}
    for name, shape in shapes.items():
        numbers = uniform(name, shape)
        if name.endswith("weight") and len(shape) == 1:
            made[name] = 1 + 0.2 * numbers
        elif len(shape) > 1 and "embed" not in name:
            made[name] = numbers * (3 / np.prod(shape[1:])) ** 0.5
        else:
            made[name] = 0.5 * numbers
    return made


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """uint8 [count, 3, height, width]: coarse squares of colour with fine noise over them."""
    coarse = uniform("coarse", (count, 3, height // 8 + 1, width // 8 + 1))
    squares = coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    noise = uniform("noise", (count, 3, height, width))
    values = 128 + 90 * squares[..., :height, :width] + 30 * noise
    return values.round().clamp(0, 255).to(torch.uint8)
