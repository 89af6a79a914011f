"""A text tower that looks at the picture by cross-attention, and an MLP, as ImageReward.

    score(x, c) = MLP(h),   h = the [CLS] state of text(c) attending to the tokens of image(x)

ImageReward (2304.05977), section 2.3: BLIP's image-grounded text encoder, whose [CLS] vector an MLP
of five layers without activations (1024, 128, 64, 16, 1) turns into a number. Two towers compare
two finished vectors; here every word can look for its own place in the picture, which is what
counts and bindings ("a red cat and a blue dog") need. The price: the text tower runs once for every
picture. The MLP's dropouts (0.2, 0.2, 0.1) are left out: all chance is passed here, and the
training has its other ways against over-fitting.

The image tower is BLIP's, or any of `IMAGE_TOWERS`; the text tower is BLIP's. On disk they stand in
`image/` and `text/`, with `head.safetensors`; a folder or hub name of transformers'
`BlipForImageTextRetrieval` is taken as a backbone as well (Salesforce/blip-itm-large-coco is of
ImageReward's size).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BlipForImageTextRetrieval,
    BlipTextModel,
    BlipVisionModel,
    ConvNextModel,
    ViTModel,
)

from components.rewards.backbones.base import RewardModel, open_texts, open_weights, opening
from components.rewards.backbones.mlp import Mlp

IMAGE_TOWERS: dict[str, Any] = {
    "blip_vision_model": BlipVisionModel,
    "convnext": ConvNextModel,
    "vit": ViTModel,
}
"""What `model_type` of the image tower may be."""
HIDDEN = (1024, 128, 64, 16)
MAX_TEXT = 35
"""Tokens of a prompt that ImageReward reads."""
ALLOWED = (
    "a BlipForImageTextRetrieval, or folders image/ and text/ (BlipTextModel), "
    "with tokenizer and image processor"
)


class CrossAttention(RewardModel):
    """An image tower, BLIP's image-grounded text tower, and an MLP."""

    architecture: ClassVar[str] = "cross_attention"

    def __init__(
        self,
        image_tower: nn.Module,
        text_tower: BlipTextModel,
        tokenizer: Any,
        processor: Mapping[str, Any],
        source: str,
        hidden: tuple[int, ...] = HIDDEN,
    ) -> None:
        super().__init__(tokenizer, processor, source)
        self.image_tower, self.text_tower = image_tower, text_tower
        self.head = Mlp([int(text_tower.config.hidden_size), *hidden], activation=False)

    @classmethod
    def open(cls, source: Path | str, generator: torch.Generator) -> Self:
        """Start from pretrained towers and an MLP that is drawn.

        Raises:
            ModelError: nothing is there, weights are missing or truncated, or it is another kind.
        """
        model = cls(*_open_towers(source), str(source))
        model.draw_head(generator)
        return model

    def draw_head(self, generator: torch.Generator) -> None:
        """Draw the MLP anew."""
        self.head.draw(generator)

    @classmethod
    def read(cls, folder: Path, constants: Mapping[str, Any]) -> Self:
        """Read what `write` wrote."""
        model = cls(*_open_towers(folder), str(folder), tuple(constants["hidden"]))
        model.head.fill(folder)
        return model

    def write(self, folder: Path) -> dict[str, Any]:
        """Write both towers and the MLP."""
        self.image_tower.save_pretrained(folder / "image")  # type: ignore[operator]
        self.text_tower.save_pretrained(folder / "text")
        self.head.write(folder)
        return {"hidden": self.head.widths[1:]}

    @property
    def towers(self) -> dict[str, nn.Module]:
        """Image tower and text tower."""
        return {"image": self.image_tower, "text": self.text_tower}

    @property
    def text_length(self) -> int:
        """At most ImageReward's 35."""
        return min(MAX_TEXT, int(self.text_tower.config.max_position_embeddings))

    def image_states(self, pixels: Float32[Tensor, "b 3 s s"]) -> Float[Tensor, "b m d"]:
        """The tokens of each picture: patches, or the places of a feature map row by row."""
        states = self.image_tower(pixel_values=pixels).last_hidden_state
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states

    def text_states(self, tokens: Int64[Tensor, "b n"]) -> Int64[Tensor, "b n"]:
        """The tokens: the text tower does nothing without a picture."""
        return tokens

    def score(
        self, image: Float[Tensor, "b m d"], text: Int64[Tensor, "b n"]
    ) -> Float32[Tensor, " b"]:
        """The MLP of the first token's state. What fills up a row is masked."""
        pad = self.tokenizer.pad_token_id
        # CLIP's tokenizer fills up with the mark that ends a prompt: its first one is read.
        num_read = int(pad == self.tokenizer.eos_token_id)
        states = self.text_tower(
            input_ids=text,
            attention_mask=((text == pad).cumsum(dim=1) <= num_read).long(),
            encoder_hidden_states=image,
        ).last_hidden_state
        return self.head(states[:, 0])

    def scale_scores(self, factor: float) -> None:
        """By way of the last layer."""
        self.head.scale(factor)


def _open_towers(source: Path | str) -> tuple[nn.Module, BlipTextModel, Any, dict[str, Any]]:
    with opening(source, ALLOWED):
        texts = open_texts(source)
        if isinstance(source, Path) and (source / "image").is_dir():
            kind = AutoConfig.from_pretrained(source / "image", local_files_only=True).model_type
            if kind not in IMAGE_TOWERS:
                raise ValueError(f"model_type '{kind}' in image/")
            image_tower = open_weights(IMAGE_TOWERS[kind], source / "image")
            text_tower = open_weights(BlipTextModel, source / "text", add_pooling_layer=False)
        else:
            blip = open_weights(BlipForImageTextRetrieval, source)
            image_tower, text_tower = blip.vision_model, blip.text_encoder
    return image_tower, text_tower, *texts
