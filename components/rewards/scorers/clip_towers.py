"""The two frozen towers of a CLIP, compared by cosine: what four scorers have in common."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.image_processing_base import ImageProcessingMixin

from components.rewards.pictures import Images, Preprocessing, in_equal_parts
from components.rewards.scorers.hub import opening, pretrained, pretrained_tokenizer

MAX_KEPT = 16384
"""Prompts whose features are kept; beyond it the oldest is forgotten and computed again."""

WIDE = (*range(0xFF01, 0xFFEF), *range(0xFB00, 0xFB07), 0x3000)
"""Letters of another width than a keyboard's, and ligatures."""
PLAIN = str.maketrans(
    {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in WIDE}
    | dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)
"""What a keyboard has for wide letters, ligatures and curly quotes."""


class ClipTowers:
    """cos(image, text) of a `CLIPModel`, for bytes or floats, independent of the batch."""

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: Any,
        prepare: Callable[[Images], Float32[Tensor, "b 3 s s"]],
        batch_size: int,
    ) -> None:
        self.clip = clip
        self._tokenizer, self._prepare, self._batch_size = tokenizer, prepare, batch_size
        config: Any = clip.config
        self._length = int(config.text_config.max_position_embeddings)
        self._texts: dict[str, Float32[Tensor, " d"]] = {}

    @classmethod
    def load(
        cls, model: Path | str, processor: Path | str, batch_size: int, *, even_crop: bool
    ) -> ClipTowers:
        """A `CLIPModel`, and the tokenizer and image processor of `processor`, by folder or name.

        Raises:
            ModelError: one of the two is missing, truncated or of another kind.
        """
        clip = pretrained(CLIPModel, model, "a CLIPModel")
        prepare = clip_preprocessing(processor, even_crop=even_crop)
        return cls(clip, clip_tokenizer(processor, clip), prepare, batch_size)

    def to(self, device: torch.device) -> ClipTowers:
        """The same on `device`."""
        nn.Module.to(self.clip, device)
        return self

    def cosines(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Between each image and its prompt, in [-1, 1], with the graph of float images."""
        texts = torch.stack([self.text(prompt) for prompt in prompts])
        return in_equal_parts(
            len(images),
            self._batch_size,
            lambda rows: (self.image(images[rows]) * texts[rows]).sum(dim=-1),
        )

    def image(self, images: Images) -> Float32[Tensor, "b d"]:
        """Unit vectors of pictures."""
        pixels = self._prepare(images.to(self.clip.device)).to(self.clip.dtype)
        return image_features(self.clip, pixels)

    @torch.no_grad()
    def text(self, prompt: str) -> Float32[Tensor, " d"]:
        """The unit vector of a prompt, computed once and alone.

        No attention mask: the tower is causal and reads its result off the first end mark, so what
        fills up the row behind it is never seen.
        """
        if prompt not in self._texts:
            encoded = self._tokenizer(
                [prompt],
                padding="max_length",
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            )
            ids = encoded["input_ids"].to(self.clip.device)
            pooled = self.clip.text_model(input_ids=ids).pooler_output
            if len(self._texts) == MAX_KEPT:
                del self._texts[next(iter(self._texts))]
            self._texts[prompt] = F.normalize(self.clip.text_projection(pooled), dim=-1)[0]
        return self._texts[prompt]


def image_features(clip: CLIPModel, pixel_values: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
    """Unit vectors of normalised pictures."""
    pooled = clip.vision_model(pixel_values=pixel_values).pooler_output
    return F.normalize(clip.visual_projection(pooled), dim=-1)


def clip_tokenizer(source: Path | str, clip: CLIPModel) -> Any:
    """CLIP's tokenizer from a folder or by hub name.

    Raises:
        ModelError: there is none, or it is not the one of `clip`.
    """
    config: Any = clip.config
    return pretrained_tokenizer(source, "CLIP's tokenizer", config.text_config.vocab_size)


def clip_preprocessing(source: Path | str, *, even_crop: bool) -> Preprocessing:
    """What the image processor of a folder or a hub name does.

    Raises:
        ModelError: there is none, or it does something that is not known here.
    """
    with opening(source, "a model with an image processor"):
        config, _ = ImageProcessingMixin.get_image_processor_dict(
            str(source), local_files_only=isinstance(source, Path)
        )
    return replace(Preprocessing.from_config(config, str(source)), even_crop=even_crop)


def cleaned(prompt: str) -> str:
    """The prompt as OpenAI's and open_clip's own tokenizers read it: plain letters, one space.

    Their repair of wrongly decoded text is left out: a prompt that needs it is no prompt.
    """
    return " ".join(html.unescape(html.unescape(prompt.translate(PLAIN))).split())
