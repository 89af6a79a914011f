"""ImageReward-v1.0: general human preference (Xu et al. 2304.05977, section 2.3).

    r(c, x) = (mlp(h_0) - mean) / std

`h_0` is what BLIP's text encoder gives at the first token when it reads the prompt and looks at the
picture by cross-attention; the two constants make the score about N(0, 1) on the authors' images
(their `ImageReward.py`). BLIP is transformers': its layers are those of the checkpoint, weight by
weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float32, Int64
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import (
    CLIP_MEAN,
    CLIP_STD,
    Images,
    Preprocessing,
    in_equal_parts,
)
from components.rewards.scorers.aesthetic import LinearStack
from components.rewards.scorers.checkpoints import Source, load_weights, unallocated
from components.rewards.scorers.hub import located, pretrained_tokenizer, weight_file
from components.rewards.scorers.published_settings import ImageRewardSettings

FILE = "ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
NUM_TOKENS = 35
"""Of a prompt, its two marks included; the rest is cut off."""
VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}
"""BLIP's ViT-L/16."""
TEXT: dict[str, Any] = {
    "vocab_size": 30524,
    "hidden_size": 768,
    "encoder_hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    # In transformers' BLIP this says that there is cross-attention, as `add_cross_attention` does
    # in the authors' med_config.json; a causal mask must be asked for in the call.
    "is_decoder": True,
}
"""BLIP's BERT, with cross-attention in every layer."""
NOT_NEEDED = (
    "blip.text_encoder.embeddings.position_ids",
    "blip.vision_proj.weight",
    "blip.vision_proj.bias",
    "blip.text_proj.weight",
    "blip.text_proj.bias",
)
"""Of BLIP's contrastive loss, and a range that is computed."""
RENAMED = (
    ("vision.embeddings.class_embedding", "blip.visual_encoder.cls_token"),
    ("vision.embeddings.position_embedding", "blip.visual_encoder.pos_embed"),
    ("vision.embeddings.patch_embedding", "blip.visual_encoder.patch_embed.proj"),
    ("vision.post_layernorm", "blip.visual_encoder.norm"),
    ("vision.encoder.layers", "blip.visual_encoder.blocks"),
    (".self_attn.projection.", ".attn.proj."),
    (".self_attn.qkv.", ".attn.qkv."),
    (".layer_norm", ".norm"),
    ("text.", "blip.text_encoder."),
)
"""Pieces of our names and what they are in the checkpoint, in this order."""


class Blip(nn.Module):
    """The picture's tower, the prompt's tower that looks at it, and the MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**VISION))
        self.text = BlipTextModel(BlipTextConfig(**TEXT), add_pooling_layer=False)
        self.mlp = LinearStack(TEXT["hidden_size"])

    def forward(
        self,
        pixel_values: Float32[Tensor, "b 3 s s"],
        input_ids: Int64[Tensor, "b n"],
        attention_mask: Int64[Tensor, "b n"],
    ) -> Float32[Tensor, " b"]:
        """mlp(h_0) of each pair."""
        seen = self.vision(pixel_values=pixel_values).last_hidden_state
        read = self.text(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen
        )
        return self.mlp(read.last_hidden_state[:, 0])


class ImageRewardScorer:
    """About N(0, 1), mostly in [-2.3, 2]."""

    differentiable = True

    def __init__(self, blip: Blip, tokenizer: Any, batch_size: int) -> None:
        self._blip, self._tokenizer, self._batch_size = blip, tokenizer, batch_size
        size = int(VISION["image_size"])
        self._prepare = Preprocessing(size, size, "bicubic", CLIP_MEAN, CLIP_STD, even_crop=True)

    @classmethod
    def build(
        cls, settings: ImageRewardSettings, compute: ComputeSettings, root: Path
    ) -> ImageRewardScorer:
        """Open the checkpoint and the tokenizer that `settings` name.

        Raises:
            ModelError: one of them is missing, truncated or of another kind.
        """
        path = weight_file(settings.checkpoint, FILE, root)
        with unallocated():
            blip = Blip()
        load_weights(blip, path, "ImageReward-v1.0", official_name, NOT_NEEDED)
        place = located(settings.tokenizer, root)
        # BLIP's two marks. A prompt can hold them too, and then they are one token each.
        tokenizer = pretrained_tokenizer(
            place, "BERT's uncased tokenizer", TEXT["vocab_size"], ("[DEC]", "[ENC]")
        )
        return cls(blip.to(find_device(compute)), tokenizer, settings.batch_size)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """r(prompt, image) of each image."""
        ids, mask = self._tokens(prompts)
        return in_equal_parts(
            len(images),
            self._batch_size,
            lambda rows: (self._raw(images[rows], ids[rows], mask[rows]) - MEAN) / STD,
        )

    def _raw(
        self, images: Images, ids: Int64[Tensor, "b n"], mask: Int64[Tensor, "b n"]
    ) -> Float32[Tensor, " b"]:
        vision = self._blip.vision
        return self._blip(self._prepare(images.to(vision.device)).to(vision.dtype), ids, mask)

    def _tokens(self, prompts: Sequence[str]) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        encoded = self._tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=NUM_TOKENS,
            return_tensors="pt",
        ).to(self._blip.vision.device)
        return encoded["input_ids"], encoded["attention_mask"]


def official_name(name: str) -> Source:
    """Where `ImageReward.pt` keeps the weight that is called `name` in `Blip`."""
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return Source(name)
