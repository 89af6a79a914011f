"""Noise schedules for tests of samplers, computed without diffusers."""

from __future__ import annotations

from typing import Any

import torch

from components.diffusion.noise import NoiseSchedule


def stable_diffusion_schedule(final_alpha: float | None = None, **fields: Any) -> NoiseSchedule:
    """Stable Diffusion's own schedule: betas whose roots rise linearly from 0.00085 to 0.012.

    Args:
        final_alpha: after the last step; None for that of timestep 0.
        fields: others of `NoiseSchedule`.
    """
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    alphas_cumprod = (1 - roots**2).cumprod(0).float()
    final = float(alphas_cumprod[0]) if final_alpha is None else final_alpha
    return NoiseSchedule(alphas_cumprod, final, **({"steps_offset": 1} | fields))


def normal(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal numbers from a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
