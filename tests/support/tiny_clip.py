"""A tiny random CLIP on disk, for tests that need a backbone of a reward model."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch

IMAGE_SIZE = 16
TEXT_LENGTH = 12


def tiny_clip(
    folder: Path, seed: int = 0, *, convolutional: bool = False, text_length: int = TEXT_LENGTH
) -> Path:
    """Write a `CLIPModel` of random weights with tokenizer and image processor; return `folder`.

    `convolutional`: with a ConvNeXt as the image tower, in a `VisionTextDualEncoderModel`.

    Images are 3 x 16 x 16, about 50 K weights; the tokenizer has a token for each lower-case
    letter. The same seed gives the same weights; the global generator is left as it was.
    """
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextModel,
        CLIPTokenizer,
        ConvNextConfig,
        ConvNextModel,
        VisionTextDualEncoderModel,
    )

    marks = ["<|startoftext|>", "<|endoftext|>"]
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocab = {token: number for number, token in enumerate([*letters, *marks])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=text_length)
    ends = {"bos_token_id": len(letters), "eos_token_id": len(letters) + 1}
    tower = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **tower,
            **ends,
            "pad_token_id": ends["eos_token_id"],
            "vocab_size": len(vocab),
            "max_position_embeddings": text_length,
        },
        vision_config={**tower, "image_size": IMAGE_SIZE, "patch_size": 4},
        projection_dim=16,
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if convolutional:
            vision = ConvNextConfig(
                num_stages=2, depths=[1, 2], hidden_sizes=[16, 32], hidden_size=32
            )
            clip = VisionTextDualEncoderModel(
                vision_model=ConvNextModel(vision), text_model=CLIPTextModel(config.text_config)
            )
        else:
            clip = CLIPModel(config)
        clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": IMAGE_SIZE},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
