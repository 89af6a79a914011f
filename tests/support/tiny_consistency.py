"""A tiny random latent consistency model on disk: the same parts as `tiny_base`, other network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.tiny import LATENT_SHAPE, SCHEDULER, tiny_base

TIME_COND_DIM = 16
"""Width of the embedded guidance weight."""


def tiny_consistency_base(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a latent consistency model of random weights in diffusers' layout, return `folder`.

    Images are 3 x 32 x 32, latents 4 x 8 x 8, the U-Net has 141 K parameters and is told the
    guidance weight. The same seed gives the same weights; the global generator is left as it was.

    Args:
        folder: where the components go.
        seed: of the weights.
        scheduler: keys that replace those of Stable Diffusion's own noise schedule in the
            `LCMScheduler`, for example `prediction_type`.
    """
    from diffusers import (
        LatentConsistencyModelPipeline,
        LCMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    tiny_base(folder, seed)
    parts = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts["unet"] = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(16, 24),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=32,
            norm_num_groups=4,
            time_cond_proj_dim=TIME_COND_DIM,
        )
    schedule = {key: value for key, value in SCHEDULER.items() if key != "steps_offset"}
    parts["scheduler"] = LCMScheduler(**(schedule | scheduler))
    parts["requires_safety_checker"] = False
    LatentConsistencyModelPipeline(**parts).save_pretrained(folder)
    return folder
