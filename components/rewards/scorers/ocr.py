"""Text rendering: does the picture show the words that the prompt asks for? `{name: ocr}`.

The reward of Flow-GRPO (2505.05470), appendix B.2: the text to render stands in quotes in the
prompt, is read off the picture, and the score is

    1 - min(d, |text|) / |text|

with the edit distance d between what was read and what was asked for, without spaces and without
regard to case, and d = 0 where the text is found within other words. It is read with the models of
PP-OCRv4, which the extra `ocr` brings along.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.errors import DataError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes
from components.rewards.scorers.extras import import_extra
from components.rewards.scorers.settings import OcrScorerSettings

QUOTED = re.compile(r'"([^"]*)"|“([^”]*)”')
"""Straight or typographic double quotes; single ones are apostrophes as well."""


class OcrScorer:
    """Reads one picture at a time, on the CPU; 1 is the text and nothing of it missing, 0 none."""

    differentiable = False

    def __init__(self, settings: OcrScorerSettings, compute: ComputeSettings) -> None:
        rapidocr = import_extra("rapidocr_onnxruntime", "ocr", "ocr")
        self._levenshtein = import_extra("rapidfuzz.distance", "ocr", "ocr").Levenshtein
        self._reader: Any = rapidocr.RapidOCR(
            use_cls=False,
            text_score=settings.min_confidence,
            intra_op_num_threads=compute.threads,
            inter_op_num_threads=1,
        )
        self._device = find_device(compute)

    @classmethod
    def build(cls, settings: OcrScorerSettings, compute: ComputeSettings, root: Path) -> OcrScorer:
        """Load the models that came with the extra `ocr`.

        Raises:
            SettingsError: the extra is not installed.
        """
        return cls(settings, compute)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Scores in [0, 1].

        Raises:
            DataError: a prompt has no text in quotes.
        """
        wanted = [quoted_text(prompt) for prompt in prompts]
        scores = [
            self._agreement(self.read(image), text)
            for image, text in zip(as_bytes(images), wanted, strict=True)
        ]
        return torch.tensor(scores, device=self._device)

    def read(self, image: UInt8[Tensor, "3 h w"]) -> str:
        """The lines of a picture, from top to bottom and from left to right, without breaks."""
        # The models know the channels in OpenCV's order: blue, green, red.
        pixels = image.flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
        found, _ = self._reader(pixels, use_cls=False)
        return "".join(line for _, line, _ in found or [])

    def _agreement(self, found: str, wanted: str) -> float:
        found, wanted = _bare(found), _bare(wanted)
        if wanted in found:
            return 1.0
        distance = self._levenshtein.distance(found, wanted)
        return 1 - min(distance, len(wanted)) / len(wanted)


def quoted_text(prompt: str) -> str:
    """The first text in double quotes, as Flow-GRPO takes it.

    Raises:
        DataError: there is none, or nothing but spaces within the quotes.
    """
    match = QUOTED.search(prompt)
    text = next(filter(None, match.groups()), "") if match else ""
    if not text.strip():
        raise DataError(
            f"the scorer 'ocr' finds no text in the prompt '{prompt}'",
            allowed='prompts with the text to render in double quotes: a sign that says "Hello"',
        )
    return text


def _bare(text: str) -> str:
    return "".join(text.split()).lower()
