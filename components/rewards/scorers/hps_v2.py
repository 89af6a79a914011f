"""HPSv2 and HPSv2.1: human preference of one picture over another (Wu et al. 2306.09341).

    s(p, x) = cos(text(p), image(x))

as the authors' `img_score.py` gives it: without the scale that multiplies it in training. Their
checkpoint is an open_clip ViT-H/14; its weights go into transformers' `CLIPModel`, which is the
same network. Their picture is made otherwise than CLIP's: as floats, with the longest edge at 224,
not cropped but filled up with black.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_float, normalised
from components.rewards.scorers.checkpoints import Source, load_weights, unallocated
from components.rewards.scorers.clip_towers import ClipTowers, cleaned, clip_tokenizer
from components.rewards.scorers.hub import located, weight_file
from components.rewards.scorers.published_settings import HpsV2Settings

FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
"""The authors' checkpoint of each version."""
ARCHITECTURE: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
}
"""open_clip's ViT-H-14 in transformers' words."""

ENDS = {
    "logit_scale": Source("logit_scale"),
    "text_projection.weight": Source("text_projection", transposed=True),
    "visual_projection.weight": Source("visual.proj", transposed=True),
    "text_model.embeddings.token_embedding.weight": Source("token_embedding.weight"),
    "text_model.embeddings.position_embedding.weight": Source("positional_embedding"),
    "vision_model.embeddings.class_embedding": Source("visual.class_embedding"),
    "vision_model.embeddings.patch_embedding.weight": Source("visual.conv1.weight"),
    "vision_model.embeddings.position_embedding.weight": Source("visual.positional_embedding"),
}
"""Weights outside the layers."""
NORMS = {
    "text_model.final_layer_norm": "ln_final",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
}
TOWERS = {
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
}
INSIDE = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""Of one layer."""
FUSED = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
"""Of one layer: thirds of `attn.in_proj`."""


class HpsV2Scorer:
    """In [-1, 1]; pictures of one prompt are compared, about 0.2 to 0.35 for version 2.1."""

    differentiable = True

    def __init__(self, towers: ClipTowers) -> None:
        self._towers = towers

    @classmethod
    def build(cls, settings: HpsV2Settings, compute: ComputeSettings, root: Path) -> HpsV2Scorer:
        """Open the checkpoint and the tokenizer that `settings` name.

        Raises:
            ModelError: one of them is missing, truncated or of another kind.
        """
        path = weight_file(settings.checkpoint, FILES[settings.version], root)
        with unallocated():
            clip = CLIPModel(CLIPConfig(**ARCHITECTURE))
        load_weights(clip, path, "open_clip's ViT-H-14", open_clip_name)
        tokenizer = clip_tokenizer(located(settings.tokenizer, root), clip)
        size = int(ARCHITECTURE["vision_config"]["image_size"])
        towers = ClipTowers(
            clip, tokenizer, lambda images: prepare(images, size), settings.batch_size
        )
        return cls(towers.to(find_device(compute)))

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """s(prompt, image) of each image."""
        return self._towers.cosines(images, [cleaned(prompt) for prompt in prompts])


def open_clip_name(name: str) -> Source:
    """Where open_clip keeps the weight that is called `name` in transformers' `CLIPModel`."""
    if name in ENDS:
        return ENDS[name]
    module, _, kind = name.rpartition(".")
    if module in NORMS:
        return Source(f"{NORMS[module]}.{kind}")
    tower, number, inside = re.fullmatch(r"(\w+\.encoder\.layers)\.(\d+)\.(.+)", module).groups()  # type: ignore[union-attr]
    layer = f"{TOWERS[tower]}.{number}"
    if inside in FUSED:
        return Source(f"{layer}.attn.in_proj_{kind}", part=FUSED[inside])
    return Source(f"{layer}.{INSIDE[inside]}.{kind}")


def prepare(images: Images, size: int) -> Float32[Tensor, "b 3 s s"]:
    """The longest edge at `size`, black around it, normalised.

    Bytes become floats before the resizing, so nothing is rounded, and a bright edge may ring
    beyond [0, 1]: that is what the network saw. Antialiased, as torchvision does it from 0.17 on;
    with an older one the authors' program skips pixels.
    """
    pixels = _longest_edge(as_float(images), size)
    height, width = pixels.shape[-2:]
    left, top = (size - width) // 2, (size - height) // 2
    padded = F.pad(pixels, [left, size - width - left, top, size - height - top])
    return normalised(padded)


def _longest_edge(pixels: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 h2 w2"]:
    height, width = pixels.shape[-2:]
    factor = size / max(height, width)
    if factor == 1:
        return pixels
    target = (round(height * factor), round(width * factor))
    return F.interpolate(pixels, size=target, mode="bicubic", antialias=True)
