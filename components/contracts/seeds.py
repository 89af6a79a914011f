"""Randomness is passed, never global: every generator is derived from one seed and a label.

Deriving by hash (instead of drawing seeds from a parent generator) makes a sample's noise
independent of how many others were drawn before it, of batch size and of where a run was resumed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed for the named purpose; the same labels always give the same seed."""
    text = "/".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(
    seed: int, *labels: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A torch generator for the named purpose."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *labels))


def numpy_generator(seed: int, *labels: str | int) -> numpy.random.Generator:
    """A numpy generator for the named purpose."""
    import numpy

    return numpy.random.default_rng(derive_seed(seed, *labels))
