"""Two towers, compared by cosine, as PickScore and HPSv2 are tuned from CLIP.

    score(x, c)  = s * cos(image(x), text(c))            PickScore (2305.01569), section 3

`s` is CLIP's logit scale. On disk it is a plain folder of transformers' `CLIPModel`, or of its
`VisionTextDualEncoderModel` where the image tower is of another kind, with its tokenizer: other
programs open it as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, CLIPModel, VisionTextDualEncoderModel

from components.rewards.backbones.base import RewardModel, open_texts, open_weights, opening

Clip = CLIPModel | VisionTextDualEncoderModel
KINDS: dict[str, type[Clip]] = {
    "clip": CLIPModel,
    "vision-text-dual-encoder": VisionTextDualEncoderModel,
}
"""What `model_type` in config.json may be; the towers and projections of both are named alike."""
ALLOWED = f"model_type {' or '.join(KINDS)}, with tokenizer and image processor"


class TwoTowers(RewardModel):
    """CLIP's towers, projections and logit scale."""

    architecture: ClassVar[str] = "two_towers"

    def __init__(
        self, clip: Clip, tokenizer: Any, processor: Mapping[str, Any], source: str
    ) -> None:
        super().__init__(tokenizer, processor, source)
        self.clip = clip

    @classmethod
    def open(cls, source: Path | str, generator: torch.Generator) -> Self:
        """Start from a CLIP; nothing is drawn.

        Raises:
            ModelError: nothing is there, weights are missing or truncated, or it is another kind.
        """
        return cls(*open_clip(source), str(source))

    @classmethod
    def read(cls, folder: Path, constants: Mapping[str, Any]) -> Self:
        """Read what `write` wrote."""
        return cls(*open_clip(folder), str(folder))

    def write(self, folder: Path) -> dict[str, Any]:
        """Write CLIP as transformers does."""
        self.clip.save_pretrained(folder)
        return {}

    @property
    def towers(self) -> dict[str, nn.Module]:
        """CLIP's vision and text models."""
        return {"image": self.clip.vision_model, "text": self.clip.text_model}

    @property
    def text_length(self) -> int:
        """Positions of the text tower."""
        return int(self.clip.text_model.config.max_position_embeddings)

    def image_states(self, pixels: Float32[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """The vision model's pooled output, before its projection."""
        return self.clip.vision_model(pixel_values=pixels).pooler_output

    def text_states(self, tokens: Int64[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """The text model's pooled output, before its projection.

        No attention mask: the text tower is causal and reads its result off the first end mark, so
        what fills up the row behind it is never seen.
        """
        return self.clip.text_model(input_ids=tokens).pooler_output

    def score(
        self, image: Float[Tensor, "b d"], text: Float[Tensor, "b e"]
    ) -> Float32[Tensor, " b"]:
        """`s * cos` of the projected states."""
        a = F.normalize(self.clip.visual_projection(image), dim=-1)
        b = F.normalize(self.clip.text_projection(text), dim=-1)
        return self.clip.logit_scale.exp() * (a * b).sum(dim=-1)

    @torch.no_grad()
    def scale_scores(self, factor: float) -> None:
        """By way of the logit scale."""
        self.clip.logit_scale.add_(math.log(factor))


def open_clip(source: Path | str) -> tuple[Clip, Any, dict[str, Any]]:
    """CLIP, its tokenizer and its image processor's config.

    Raises:
        ModelError: nothing is there, weights are missing or truncated, or it is another kind.
    """
    with opening(source, ALLOWED):
        local = isinstance(source, Path)
        kind = AutoConfig.from_pretrained(str(source), local_files_only=local).model_type
        if kind not in KINDS:
            raise ValueError(f"model_type '{kind}'")
        return open_weights(KINDS[kind], source), *open_texts(source)
