"""A tiny random Stable-Diffusion-shaped model on disk, for tests that need no good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXT_LENGTH = 24
IMAGE_SIZE = 32
LATENT_SHAPE = (4, 8, 8)

SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
"""Stable Diffusion's own noise schedule."""


def tiny_base(folder: Path, seed: int = 0, **scheduler: Any) -> Path:
    """Write a pipeline of random weights in diffusers' layout and return `folder`.

    Images are 3 x 32 x 32, latents 4 x 8 x 8, the U-Net has 141 K parameters. The same seed gives
    the same weights; the global generator is left as it was.

    Args:
        folder: where the components go.
        seed: of the weights.
        scheduler: keys that replace those of `SCHEDULER`, for example `prediction_type`.
    """
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            layers_per_block=1,
            latent_channels=LATENT_SHAPE[0],
            norm_num_groups=4,
            sample_size=IMAGE_SIZE,
        )
        unet = UNet2DConditionModel(
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
        )
        _awaken(text_encoder)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**(SCHEDULER | scheduler)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """A CLIP tokenizer without merges: one token a letter, with CLIP's two special tokens."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: index for index, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TEXT_LENGTH)


def _awaken(text_encoder: torch.nn.Module) -> None:
    # CLIP starts with embeddings of size 0.02, so near to each other that a prompt changes nothing.
    with torch.no_grad():
        for name, parameter in text_encoder.named_parameters():
            if "embedding" in name:
                parameter.normal_()
