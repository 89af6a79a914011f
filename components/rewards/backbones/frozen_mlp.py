"""An MLP on frozen embeddings, as Lee et al. (2302.12192), section 3.2, learn from good and bad.

    score(x, c) = MLP([i, t, i * t]),   i = image(x), t = text(c), CLIP's projected unit vectors

The paper gives the MLP both embeddings; their product is added here, without which it would have to
find out from a few thousand labels what CLIP's cosine knows. Two hidden layers of 1024, as the
paper; how they are activated is not said there, a GELU is taken. Vectors of length 1 in d
dimensions have coordinates near 1/sqrt(d) and are scaled to about 1.

On disk it is the CLIP folder, unchanged, and `head.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from components.rewards.backbones.base import RewardModel
from components.rewards.backbones.mlp import Mlp
from components.rewards.backbones.two_towers import Clip, open_clip

HIDDEN = (1024, 1024)


class FrozenMlp(RewardModel):
    """CLIP, of which nothing is learnt, and an MLP behind it."""

    architecture: ClassVar[str] = "frozen_mlp"

    def __init__(
        self,
        clip: Clip,
        tokenizer: Any,
        processor: Mapping[str, Any],
        source: str,
        hidden: tuple[int, ...] = HIDDEN,
    ) -> None:
        super().__init__(tokenizer, processor, source)
        self.clip = clip
        width = clip.visual_projection.out_features
        self.gain = width**0.5
        self.head = Mlp([3 * width, *hidden], activation=True)

    @classmethod
    def open(cls, source: Path | str, generator: torch.Generator) -> Self:
        """Start from a CLIP and an MLP that is drawn.

        Raises:
            ModelError: nothing is there, weights are missing or truncated, or it is another kind.
        """
        model = cls(*open_clip(source), str(source))
        model.draw_head(generator)
        return model

    def draw_head(self, generator: torch.Generator) -> None:
        """Draw the MLP anew."""
        self.head.draw(generator)

    @classmethod
    def read(cls, folder: Path, constants: Mapping[str, Any]) -> Self:
        """Read what `write` wrote."""
        model = cls(*open_clip(folder), str(folder), tuple(constants["hidden"]))
        model.head.fill(folder)
        return model

    def write(self, folder: Path) -> dict[str, Any]:
        """Write CLIP as it was, and the MLP."""
        self.clip.save_pretrained(folder)
        self.head.write(folder)
        return {"hidden": self.head.widths[1:]}

    @property
    def towers(self) -> dict[str, nn.Module]:
        """All of CLIP, halved: the projections belong to the towers here, since they are frozen."""
        clip = self.clip
        return {
            "image": nn.ModuleList([clip.vision_model, clip.visual_projection]),
            "text": nn.ModuleList([clip.text_model, clip.text_projection]),
        }

    @property
    def text_length(self) -> int:
        """Positions of the text tower."""
        return int(self.clip.text_model.config.max_position_embeddings)

    def image_states(self, pixels: Float32[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Projected, of length sqrt(d)."""
        pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
        return self.gain * F.normalize(self.clip.visual_projection(pooled), dim=-1)

    def text_states(self, tokens: Int64[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """Projected, of length sqrt(d)."""
        pooled = self.clip.text_model(input_ids=tokens).pooler_output
        return self.gain * F.normalize(self.clip.text_projection(pooled), dim=-1)

    def score(
        self, image: Float[Tensor, "b d"], text: Float[Tensor, "b d"]
    ) -> Float32[Tensor, " b"]:
        """The MLP's output."""
        return self.head(torch.cat([image, text, image * text], dim=-1))

    def scale_scores(self, factor: float) -> None:
        """By way of the last layer."""
        self.head.scale(factor)
