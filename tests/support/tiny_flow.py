"""A tiny random Stable-Diffusion-3-shaped model on disk, for tests that need no good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.support.tiny import IMAGE_SIZE, LATENT_SHAPE, TEXT_LENGTH, _awaken, _tokenizer

POOLED_WIDTHS = (24, 16)
"""Of the two text encoders' projections: unlike, so that nobody can swap them unnoticed."""
JOINT_WIDTH = 64
"""Features of a text state: 8 more than the two encoders have, 32 and 24."""

FLOW_SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
"""Stable Diffusion 3's own."""


def tiny_flow_base(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a flow-matching pipeline of random weights in diffusers' layout; return `folder`.

    Images are 3 x 32 x 32, latents 4 x 8 x 8, the transformer has 16 tokens and 119 K parameters.
    The same seed gives the same weights; the global generator is left as it was. There is no third
    text encoder, which diffusers wants to be told as it does for Stable Diffusion 3 itself:
    `StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)`.

    Args:
        folder: where the components go.
        seed: of the weights.
        scheduler: keys that replace those of `FLOW_SCHEDULER`, for example `shift`.
    """
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    tokenizer = _tokenizer()

    def text_encoder(hidden_size: int, projection_dim: int) -> CLIPTextModelWithProjection:
        encoder = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden_size,
                intermediate_size=2 * hidden_size,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TEXT_LENGTH,
                projection_dim=projection_dim,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        _awaken(encoder)
        return encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = text_encoder(32, POOLED_WIDTHS[0])
        second = text_encoder(24, POOLED_WIDTHS[1])
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            latent_channels=LATENT_SHAPE[0],
            norm_num_groups=4,
            sample_size=IMAGE_SIZE,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        )
        transformer = SD3Transformer2DModel(
            sample_size=LATENT_SHAPE[1],
            patch_size=2,
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=5,
            joint_attention_dim=JOINT_WIDTH,
            caption_projection_dim=40,
            pooled_projection_dim=sum(POOLED_WIDTHS),
            pos_embed_max_size=LATENT_SHAPE[1] // 2,
        )
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**(FLOW_SCHEDULER | scheduler)),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    return folder
