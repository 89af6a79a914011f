"""The shipped cross-attention tower: the right caption beats one that is wrong in one thing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import BlipTextModel, ConvNextModel

from components.miniature import tokens
from components.miniature.scenes import caption
from components.miniature.train_clip import CLIP_DIR, is_held_out, unordered_scenes
from components.miniature.train_cross_attention import FOLDER, NUM_NEAR, near_captions

ROOM = Path(FOLDER).parent


def test_the_folder_opens_as_what_it_is_and_the_image_tower_is_clips() -> None:
    image = ConvNextModel.from_pretrained(FOLDER / "image", dtype=torch.float32)
    text, problems = BlipTextModel.from_pretrained(
        FOLDER / "text", add_pooling_layer=False, output_loading_info=True
    )
    assert not problems["missing_keys"]
    assert text.config.encoder_hidden_size == image.config.hidden_sizes[-1]
    assert len(tokens.build()) == text.config.vocab_size
    from safetensors.torch import load_file

    clip = load_file(CLIP_DIR / "model.safetensors")
    own = load_file(FOLDER / "image" / "model.safetensors")
    same = {name.removeprefix("vision_model."): value for name, value in clip.items()}
    assert all(torch.equal(value, same[name]) for name, value in own.items())


def test_near_captions_share_words_and_are_never_held_out() -> None:
    scenes = unordered_scenes()
    near = near_captions(scenes)
    assert near.shape == (len(scenes), NUM_NEAR)
    held_out = {row for row, scene in enumerate(scenes) if is_held_out(row, scene)}
    assert not held_out & set(near.flatten().tolist())
    for row in np.random.default_rng(0).choice(len(scenes), 20, replace=False).tolist():
        own = set(caption(scenes[row]).split())
        assert row not in near[row].tolist()
        assert own & set(caption(scenes[int(near[row, 0])]).split())


def test_it_tells_captions_apart_that_were_never_trained_on() -> None:
    report = json.loads((ROOM / "reports/cross_attention.json").read_text())
    # Chance is 1 of 25.
    assert report["base_styles_top1_of_25"] > 0.7
    assert report["held_out_style_top1_of_25"] > 0.4
