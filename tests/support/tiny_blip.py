"""A tiny random BLIP on disk, for tests that need a cross-attention backbone."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tests.support.tiny_clip import IMAGE_SIZE, TEXT_LENGTH, tiny_clip


def tiny_blip(folder: Path, seed: int = 0, *, convolutional: bool = False) -> Path:
    """Write a `BlipForImageTextRetrieval` of random weights; return `folder`.

    `convolutional`: in place of it the folders `image/`, a ConvNeXt, and `text/`.

    Tokenizer and image processor are those of `tiny_clip`. The same seed gives the same weights;
    the global generator is left as it was.
    """
    from transformers import (
        BlipConfig,
        BlipForImageTextRetrieval,
        BlipTextConfig,
        BlipTextModel,
        ConvNextConfig,
        ConvNextModel,
    )

    tiny_clip(folder, seed)
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    text = {
        "vocab_size": 54,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_dim": 16,
        "bos_token_id": 52,
        "eos_token_id": 53,
        "sep_token_id": 53,
        "pad_token_id": 53,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if convolutional:
            tower = ConvNextConfig(num_stages=2, depths=[1, 2], hidden_sizes=[16, 32])
            ConvNextModel(tower).save_pretrained(folder / "image")
            model = BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False)
            model.save_pretrained(folder / "text")
        else:
            config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
            BlipForImageTextRetrieval(config).save_pretrained(folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return folder
