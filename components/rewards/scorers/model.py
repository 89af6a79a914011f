"""The trained reward model as a scorer: `{name: model, path: models/reward}`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.model import RewardModel

CHUNK = 32
"""Images of one forward pass; the last pass is filled up to it."""


class ModelScorer:
    """Scores with a frozen `RewardModel`, about N(0, 1) on the images that it was trained on."""

    def __init__(self, model: RewardModel) -> None:
        self._model = model.eval().requires_grad_(False)
        self._text: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, compute: ComputeSettings) -> ModelScorer:
        """Read the folder that the stage `rewards` wrote.

        Raises:
            ModelError: the folder is missing, truncated or of another kind.
        """
        return cls(RewardModel.load(folder).to(find_device(compute)))

    @torch.no_grad()
    def score(
        self, images: UInt8[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Rewards, higher is better.

        Every pass has the same number of images, so that a matrix product never takes another code
        path for a short batch: a score does not depend on how many images came along with its own.
        """
        return self._rewards(
            images, prompts, lambda images: self._model.normalise(self._model.resize(images))
        )

    def score_pixels(
        self, pixels: Float32[Tensor, "b 3 h w"], prompts: Sequence[str]
    ) -> Float32[Tensor, " b"]:
        """Rewards of pixels in [0, 1], differentiable in them.

        Equal to `score` of the same picture as bytes, up to the rounding after its resizing.
        """
        return self._rewards(
            pixels,
            prompts,
            lambda pixels: self._model.normalise_pixels(self._model.resize_pixels(pixels)),
        )

    def _rewards(
        self, images: Tensor, prompts: Sequence[str], prepare: Callable[[Tensor], Tensor]
    ) -> Float32[Tensor, " b"]:
        text = self._text_features(prompts)
        rewards = []
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK].to(self._model.device)
            missing = CHUNK - len(chunk)
            filled = torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)])
            features = self._model.image_features(prepare(filled))[: len(chunk)]
            rewards.append(self._model.reward(features, text[start : start + CHUNK]))
        return torch.cat(rewards) if rewards else torch.zeros(0, device=self._model.device)

    @torch.no_grad()
    def _text_features(self, prompts: Sequence[str]) -> Float32[Tensor, "b d"]:
        # One prompt is scored many times in a run; its frozen features are computed once, alone, so
        # that they do not depend on the other prompts either.
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._text:
                self._text[prompt] = self._model.text_features(self._model.tokenize([prompt]))[0]
        if not prompts:
            return torch.zeros(0, 0, device=self._model.device)
        return torch.stack([self._text[prompt] for prompt in prompts])
