"""What colour is an object? CLIP says, as in GenEval: the nearest of ten, on the object cut out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from components.rewards.scorers.clip_towers import ClipTowers
from components.rewards.scorers.geneval_rules import COLOURS, Box, Detection

TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}",
             "a photo of a {colour} object")  # fmt: skip
"""A colour's direction is the mean of these sentences'."""
GREY = 0x99
"""What covers everything that does not belong to an object."""


class ColourReader:
    """Names colours by CLIP without training."""

    def __init__(self, towers: ClipTowers) -> None:
        self._towers = towers
        self._directions: dict[str, Float32[Tensor, "10 d"]] = {}

    @torch.no_grad()
    def colours(self, image: UInt8[Tensor, "3 h w"], detections: Sequence[Detection]) -> list[str]:
        """The colour of each object in `image`, one of `COLOURS`.

        One object at a time, so that no answer depends on the others.
        """
        found = []
        for one in detections:
            features = self._towers.image(cut_out(image, one)[None])[0]
            found.append(COLOURS[int((self._of(one.name) @ features).argmax())])
        return found

    def _of(self, name: str) -> Float32[Tensor, "10 d"]:
        if name not in self._directions:
            means = []
            for colour in COLOURS:
                sentences = [words.format(colour=colour, name=name) for words in TEMPLATES]
                means.append(torch.stack([self._towers.text(one) for one in sentences]).mean(dim=0))
            self._directions[name] = F.normalize(torch.stack(means), dim=-1)
        return self._directions[name]


def cut_out(image: UInt8[Tensor, "3 h w"], detection: Detection) -> UInt8[Tensor, "3 a b"]:
    """The box of an object, at least one pixel of the picture; grey where its mask is not."""
    if detection.mask is not None:
        mask = detection.mask.to(image.device)
        image = torch.where(mask, image, torch.full_like(image, GREY))
    left, top, right, bottom = _within(detection.box, *image.shape[-2:])
    return image[:, top:bottom, left:right]


def _within(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    left, right = (min(max(round(edge), 0), width) for edge in (box[0], box[2]))
    top, bottom = (min(max(round(edge), 0), height) for edge in (box[1], box[3]))
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)
